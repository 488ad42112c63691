// The language model as a task: a folder of text, a tokenizer, a transformer with or without memories. A causal model
// learns the next token, the other kind the tokens that are masked (data/text/masking.h).
//
// Legend: B windows of a micro-batch, L positions of a window (the model's context).
#pragma once

#include <deque>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/text/batches.h"
#include "loci/data/text/masking.h"
#include "loci/data/text/token_cache.h"
#include "loci/models/transformer_lm.h"
#include "loci/nn/memory/ngram_collisions.h"
#include "loci/table/usage.h"
#include "loci/tasks/memory_watch.h"
#include "loci/train/checkpoint.h"
#include "loci/train/read_ahead.h"
#include "loci/train/recipe.h"
#include "loci/train/task.h"

namespace loci {

class NgramCounts;

// What tasks of a transformer share. The tokenizer stands in this file of a checkpoint.
inline constexpr const char* kTokenizerFile = "tokenizer.model";
Tokenizer load_tokenizer(const std::filesystem::path& file);
std::vector<WatchedMemory> watched_memories(const TransformerLm& model);
std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables_of(const TransformerLm& model,
                                                                const RowOptimizerOptions& rows);
// Throws Error (usage) for tables that cannot be trained.
void refuse_int8_tables(const TransformerLmOptions& model, const std::string& who);
// The tokens that a model needs with a tokenizer of `vocabulary`: one more than it has where some are masked.
int64_t model_vocabulary(const TransformerLmOptions& model, int64_t vocabulary);
// `model` with a tokenizer of so many tokens, of which `end_of_text` ends a document.
TransformerLmOptions with_vocabulary(TransformerLmOptions model, int64_t vocabulary, int64_t end_of_text = -1);
// Throws Error (usage) unless `model` has the tokens that it needs with the tokenizer. who: the task.
void check_vocabulary(const TransformerLmOptions& model, const Tokenizer& tokenizer, const std::string& who);

// [data]
struct LanguageModelData {
  TextFolderOptions text;
  int64_t evaluation_tokens = 200'000;  // of the validation part, spread over it; 0: all
  void fields(ConfigFields& f);
};

class LanguageModelPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "tokens"; }
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  int64_t data_bytes(const std::filesystem::path& folder) const override;
  std::string data_settings() const override;
  void check_ranks(const Ranks& ranks) const override;
  bool can_continue() const override { return true; }
  void convert_tables(const std::string& dtype) override;
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  // The model that this plan means with a tokenizer of so many tokens, of which `end_of_text` ends a document.
  TransformerLmOptions model_for(int64_t vocabulary, int64_t end_of_text = -1) const {
    return with_vocabulary(model, vocabulary, end_of_text);
  }

  LanguageModelData data;
  TokenizerOptions tokenizer;
  TransformerLmOptions model;
  MaskingOptions masking;  // of a model that is not causal
};

std::unique_ptr<TaskPlan> language_model_plan();

// The tokens of a data folder.
struct OpenedText : OpenedData {
  explicit OpenedText(TokenData data) : tokens(std::move(data)) {}
  TokenData tokens;
};

// What evaluate() and baselines() sum up.
struct TextLoss {
  double nats = 0;
  int64_t tokens = 0, bytes = 0;
  double per_token() const { return nats / static_cast<double>(tokens); }
  double bits_per_byte() const;
};

class LanguageModelTask : public Task {
 public:
  LanguageModelTask(const LanguageModelPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override { return tables_of(*model_, rows_); }
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch() * window_; }
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  // Counted bigrams and trigrams of the tokens of those steps; none for more than 2^23 tokens.
  std::vector<Baseline> baselines(int64_t steps) override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  void before_step(int64_t step, OptimizerSet& optimizers) override;
  std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet& optimizers) override;
  nlohmann::json training_measures(bool whole) override { return watch_.training_measures(whole); }
  RowCounters row_state(const Table& table, int64_t since) override { return watch_.row_state(table, since); }
  void start_from(const std::map<std::string, at::Tensor>& state, const std::string& who) override {
    model_->load(state, who);
  }
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override { return watch_.extra_state(); }
  std::vector<std::pair<std::string, std::string>> files() override;
  std::string data_key() const override { return tokens_.key; }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  std::string data_changes(const std::string& key_before) const override {
    return changes_of_data(key_before, tokens_.key, cache_);
  }
  nlohmann::json data_facts() const override;

 private:
  struct Batch {
    at::Tensor input, target;    // [B, L] int64
    at::Tensor token_mask = {};  // [B, L] bool; undefined: all positions hold tokens
  };
  // This rank's windows of a batch: some of its rows.
  struct Slice {
    Batch batch;
    double share = 1;  // of all targets of the batch, times the number of ranks
  };
  // A memory and what counts its reads.
  struct Counted {
    int64_t layer;
    std::shared_ptr<MemoryLayer> memory;
    std::shared_ptr<Usage> usage;
  };
  struct CountedNgrams {
    int64_t layer;
    std::shared_ptr<NgramMemory> memory;
    std::shared_ptr<Usage> usage;
    NgramCollisions collisions;
  };
  std::vector<Counted> counters() const;  // new ones, which hold nothing yet
  std::vector<CountedNgrams> ngram_counters() const;
  // The memories of the lists are observed until the end of what it returns.
  static std::deque<ObserverScope> observe(const std::vector<Counted>& memories,
                                           const std::vector<CountedNgrams>& ngrams = {});
  // Writes what all ranks counted into an evaluation.
  void describe(const std::vector<Counted>& memories, const std::vector<CountedNgrams>& ngrams,
                Evaluation& evaluation) const;
  Slice slice_of(const Batch& batch) const;
  Batch training_batch(int64_t position) const;              // of this run: step * accumulation + micro
  Batch batch_with_rows(int64_t position) const;             // fetches the rows of n-grams that are in files
  static constexpr int64_t kMostCounted = int64_t{1} << 23;  // tokens: 250 MB while they are sorted
  // With those that the weights were trained on before, where they count.
  int64_t tokens_in(int64_t steps) const { return (first_ + steps * batch_.accumulation) * units_per_micro_batch(); }
  NgramCounts counted_ngrams(int64_t order, int64_t steps) const;
  // Of tokens [B, L]: nats of each target (0 where it is < 0) and whether it is the likeliest token, [B, L].
  std::pair<at::Tensor, at::Tensor> losses_of(const Batch& batch);
  void add_loss_by_context(int64_t steps, Account& account);
  void add_answers(const std::filesystem::path& questions, Account& account);
  TextLoss loss_of(const NgramCounts& counts) const;
  std::vector<int64_t> evaluated_batches() const;  // the validation batches that are measured
  Batch validation_batch(int64_t index, int64_t* targets = nullptr) const;
  void calibrate_memories(int64_t step, OptimizerSet& optimizers);
  bool masked() const { return !model_->options().causal; }
  // Throws Error (input) for a validation part of which no token is masked.
  void check_masked_tokens() const;

  LanguageModelPlan plan_;
  BatchShape batch_;
  RowOptimizerOptions rows_;
  uint64_t seed_;
  Ranks ranks_;  // share each batch
  int64_t window_;
  int64_t first_;  // position of the first training batch: behind what the weights were trained on
  std::filesystem::path cache_;
  std::shared_ptr<const OpenedText> opened_;
  const TokenData& tokens_;
  std::vector<int64_t> token_bytes_;  // by token
  std::shared_ptr<TransformerLm> model_;
  WindowSampler sampler_;
  EvaluationWindows evaluation_;
  TokenMasking training_masks_, evaluation_masks_;  // the latter are the same for all runs
  MemoryWatch watch_;                               // of the losses
  ProgressLine* progress_;                          // of evaluations and counting; or null
  ReadAhead<Batch> batches_;
};

// A checkpoint's model and tokenizer alone, for use without data.
struct LoadedLanguageModel {
  std::shared_ptr<TransformerLm> model;
  Tokenizer tokenizer;
};
// Throws Error (usage) when the run is of another task, (input) when the checkpoint is broken.
LoadedLanguageModel load_language_model(const RunConfig& config, const CheckpointReader& checkpoint,
                                        const Ranks& ranks = {});

}  // namespace loci
