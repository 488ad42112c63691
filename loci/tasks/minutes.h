// Summaries of long texts of which few sentences matter (data/procedural/minutes.h): a decoder with few slots, with all
// sentences, with nothing, or a transformer that reads the whole text (recipes/slots-minutes).
//
// Legend: B texts of a micro-batch, N sentences, S salient ones among them, L words of a sentence, T = S + 1 words of a
// summary with its end, r slots.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/procedural/minutes.h"
#include "loci/models/slot_summariser.h"
#include "loci/models/transformer_lm.h"
#include "loci/train/read_ahead.h"
#include "loci/train/task.h"

namespace loci {

// [data]
struct MinutesTaskData {
  MinutesOptions minutes;
  int64_t test_samples = 1000;  // the same ones for every seed
  void fields(ConfigFields& f);
};

enum class MinutesNetwork { recurrent, transformer };

// [model]
struct MinutesModelOptions {
  MinutesNetwork network = MinutesNetwork::recurrent;
  SlotSummariserOptions recurrent;
  int64_t layers = 2;  // of the transformer, as what follows
  int64_t heads = 4;
  int64_t transformer_width = 128;
  void fields(ConfigFields& f);
};

class MinutesPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "texts"; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  bool needs_data() const override { return false; }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  TextExtents text() const { return {data.minutes.sentences, data.minutes.words(), data.minutes.salient + 1}; }
  SlotSummariserOptions recurrent_model() const;
  // Its sequence: the words of the text, begin, the summary.
  TransformerLmOptions transformer_model() const;
  int64_t parameters() const;
  int64_t multiply_adds() const;  // of one text

  MinutesTaskData data;
  MinutesModelOptions model;
};

std::unique_ptr<TaskPlan> minutes_plan();

class MinutesTask : public Task {
 public:
  MinutesTask(const MinutesPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override;
  std::vector<NamedParameter> dense_parameters() override;
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {}; }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  // exact, token_accuracy, coverage, salient_mass, loss. Without slots coverage and mass are NaN.
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  std::string data_key() const override;

 private:
  struct Batch {
    at::Tensor words;    // [B, N, L] int64
    at::Tensor summary;  // [B, T] int64
    at::Tensor salient;  // [B, N] bool
  };
  Batch batch_of(const Minutes& minutes, int64_t first, int64_t count) const;
  Batch test_batch(int64_t index) const;
  int64_t test_batches() const;
  // What the network misses of a word, scalar; with the penalty where it is to be trained.
  at::Tensor loss_of(const Batch& batch, bool with_penalty);
  at::Tensor written(const Batch& batch, const SlotSummariser::Encoded& encoded);  // [B, T]

  MinutesPlan plan_;
  BatchShape batch_;
  Minutes training_, test_;
  std::shared_ptr<SlotSummariser> recurrent_;  // one of two
  std::shared_ptr<TransformerLm> transformer_;
  ProgressLine* progress_;  // of evaluations; or null
  ReadAhead<Batch> batches_;
};

}  // namespace loci
