// Summaries of dialogues and meetings by a decoder with few slots (data/text/dialogues.h, models/slot_summariser.h):
// recipes/slots-meetings.
//
// Legend: B dialogues of a batch, N sentences, L tokens of a sentence, T tokens of a summary with its end.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/epoch_order.h"
#include "loci/data/text/dialogues.h"
#include "loci/data/text/tokenizer.h"
#include "loci/models/slot_summariser.h"
#include "loci/train/read_ahead.h"
#include "loci/train/task.h"

namespace loci {

// [data]
struct MeetingsData {
  DialogueOptions dialogues;
  int64_t sentences = 48;        // N, of which a query is the first
  int64_t sentence_tokens = 32;  // L
  int64_t summary_tokens = 64;   // T
  void fields(ConfigFields& f);
};

class MeetingsPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "dialogues"; }
  // Of dialogues and summaries as long as they may be.
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  std::string data_settings() const override;
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  TextExtents text() const { return {data.sentences, data.sentence_tokens, data.summary_tokens}; }
  SlotSummariserOptions model_for(int64_t tokens) const;  // of a tokenizer

  MeetingsData data;
  TokenizerOptions tokenizer;
  SlotSummariserOptions model;
};

std::unique_ptr<TaskPlan> meetings_plan();

// Words of the model: 0 none, 1 begin, 2 end, then tokens.
struct EncodedDialogue {
  std::vector<std::vector<int64_t>> sentences;
  std::vector<int64_t> summary;  // of the first writer, with its end
};

struct OpenedDialogues : OpenedData {
  explicit OpenedDialogues(Tokenizer of_texts) : tokenizer(std::move(of_texts)) {}
  Tokenizer tokenizer;
  std::vector<Dialogue> test_texts;
  std::vector<EncodedDialogue> train, test;
  std::string key;
};

class Meetings : public Task {
 public:
  Meetings(const MeetingsPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {}; }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  // json: "summaries", of each test dialogue name, written, lead (its first three sentences) and references. What
  // `python -m loci.rouge` reads.
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  std::vector<std::pair<std::string, std::string>> files() override;
  std::string data_key() const override { return opened_->key; }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override;

 private:
  struct Batch {
    at::Tensor words;    // [B, N, L] int64, as short as they can be
    at::Tensor summary;  // [B, T] int64, -1 behind each
  };
  static Batch batch_of(const std::vector<const EncodedDialogue*>& dialogues);
  Batch training_batch(int64_t position) const;
  Batch test_batch(int64_t index) const;
  int64_t test_batches() const;
  std::vector<std::string> written(const Batch& batch) const;

  MeetingsPlan plan_;
  BatchShape batch_;
  std::shared_ptr<const OpenedDialogues> opened_;
  std::shared_ptr<SlotSummariser> model_;
  EpochOrder order_;
  ProgressLine* progress_;  // of evaluations; or null
  ReadAhead<Batch> batches_;
};

}  // namespace loci
