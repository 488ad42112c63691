// Inferences about the sentences of a story, by a small language model that sees the sentence alone, the story, or the
// story and a memory of earlier inferences (models/retrieval_lm.h, data/procedural/story_grammar.h):
// recipes/story-memory.
//
// The memory's items are the true inferences of earlier sentences in training, and the model's own in an evaluation,
// which goes through a story sentence by sentence.
//
// Legend: B rows of a micro-batch, M items, L words of an item.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "loci/models/retrieval_lm.h"
#include "loci/tasks/story_rows.h"
#include "loci/tasks/story_scores.h"
#include "loci/train/read_ahead.h"
#include "loci/train/task.h"

namespace loci {

// [data]
struct StoryTaskData {
  int64_t test_stories = 200;  // the same ones for every seed
  void fields(ConfigFields& f);
};

// [model.memory]
struct StoryMemoryOptions {
  StoryItems items = StoryItems::earlier;
  StoryQuery query = StoryQuery::row;
  bool count_padding = false;
  ReadOptions read = RetrievalMemoryOptions().read;
  void fields(ConfigFields& f);
};

// [model]
struct StoryModelOptions {
  StoryInput input = StoryInput::story;
  int64_t layers = 2, width = 128, heads = 4, ffn_width = 0;
  bool has_memory = false;
  StoryMemoryOptions memory;
  void fields(ConfigFields& f);

  TransformerLmOptions transformer() const;
  std::optional<RetrievalMemoryOptions> retrieval() const;
  StoryRowOptions rows() const;
  int64_t parameters() const;
};

class StoriesPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "inferences"; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  bool needs_data() const override { return false; }
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  StoryTaskData data;
  StoryModelOptions model;
};

std::unique_ptr<TaskPlan> stories_plan();

class Stories : public Task {
 public:
  Stories(const StoriesPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return {}; }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  std::vector<Measure> measures() const override { return StoryScores::measures(); }
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  std::string data_key() const override { return "stories"; }

 private:
  // Goes through stories sentence by sentence, on the model's own inferences.
  void answer_stories(const std::vector<Story>& stories, StoryScores& scores);
  // The nine inferences of a sentence of each story, into `texts`.
  void answer_sentence(const std::vector<Story>& stories, int64_t sentence, bool causes, std::vector<StoryTexts>& texts,
                       StoryScores& scores);
  std::vector<Story> test_stories(int64_t chunk) const;
  int64_t test_chunks() const;

  StoriesPlan plan_;
  BatchShape batch_;
  StoryRowOptions rows_;
  StoryTraining training_;
  StoryGrammar test_;
  std::shared_ptr<RetrievalLm> model_;
  ProgressLine* progress_;  // of evaluations; or null
  ReadAhead<StoryRows> batches_;
};

}  // namespace loci
