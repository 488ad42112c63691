// Classification of texts, or of pairs of texts, by a transformer that was trained as a language model: everything is
// finetuned, the memories too.
//
// Legend: B texts of a batch, L tokens of the longest, C classes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "loci/data/epoch_order.h"
#include "loci/data/text/labelled_texts.h"
#include "loci/models/text_classifier.h"
#include "loci/tasks/class_accuracy.h"
#include "loci/tasks/memory_watch.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/read_ahead.h"
#include "loci/train/recipe.h"
#include "loci/train/task.h"

namespace loci {

// [classifier]
struct ClassifierOptions {
  TextPooling pooling = TextPooling::mean;
  void fields(ConfigFields& f);
};

class TextClassificationPlan : public TaskPlan {
 public:
  void fields(ConfigFields& f) override;
  void check() const override;
  std::string unit() const override { return "texts"; }
  // Of texts as long as the context.
  RunSize size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const override;
  std::string data_settings() const override;
  std::unique_ptr<Task> make(const TaskInputs& inputs) const override;

  LabelledTextOptions data;
  TokenizerOptions tokenizer;  // of a run that starts from drawn weights
  TransformerLmOptions model;
  ClassifierOptions classifier;
};

std::unique_ptr<TaskPlan> text_classification_plan();

struct EncodedText {
  std::vector<int64_t> tokens;
  int64_t label;
};

struct OpenedTexts : OpenedData {
  explicit OpenedTexts(Tokenizer of_texts) : tokenizer(std::move(of_texts)) {}
  Tokenizer tokenizer;
  std::vector<std::string> classes;
  std::vector<EncodedText> train, validation, test;
  std::string key;
};

struct TextBatch {
  at::Tensor tokens;      // [B, L] int64, filled up with the end of a text
  at::Tensor token_mask;  // [B, L] bool
  at::Tensor labels;      // [B] int64
};
// `end_of_text` fills up the shorter ones.
TextBatch text_batch(const std::vector<const EncodedText*>& texts, int64_t end_of_text);

// (tp tn - fp fn) / sqrt((tp + fp) (tp + fn) (tn + fp) (tn + fn)) of two classes, the second of them positive; 0 where
// a factor is 0. predicted and labels [B] int64 of 0 and 1.
class MatthewsCorrelation {
 public:
  void add(const at::Tensor& predicted, const at::Tensor& labels);
  double value() const;

 private:
  int64_t counts_[2][2] = {};  // by label and prediction
};

class TextClassification : public Task {
 public:
  TextClassification(const TextClassificationPlan& plan, const TaskInputs& inputs);

  torch::nn::Module& module() override { return *model_; }
  std::vector<NamedParameter> dense_parameters() override { return model_->dense_parameters(); }
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables() override;
  at::Tensor loss(int64_t step, int64_t micro) override;
  std::string unit() const override { return plan_.unit(); }
  int64_t units_per_micro_batch() const override { return batch_.per_micro_batch(); }
  // accuracy, loss and top_5 of the validation part, matthews of two classes, and test_accuracy and test_matthews
  // where there is a test part.
  std::vector<Measure> measures() const override;
  Evaluation evaluate() override;
  Account account(const Evaluation& evaluation, const AccountOptions& options) override;
  int64_t infer(int64_t position) override;
  void before_step(int64_t step, OptimizerSet&) override { watch_.before_step(step); }
  std::vector<TaskEvent> after_step(const StepMade& made, OptimizerSet& optimizers) override {
    return watch_.after_step(made, optimizers);
  }
  nlohmann::json training_measures(bool whole) override;
  RowCounters row_state(const Table& table, int64_t since) override { return watch_.row_state(table, since); }
  void start_from(const std::map<std::string, at::Tensor>& state, const std::string& who) override {
    model_->load(state, who);
  }
  std::vector<std::pair<std::string, at::Tensor>> extra_state() override;
  std::vector<std::pair<std::string, std::string>> files() override;
  std::string data_key() const override { return opened_->key; }
  std::shared_ptr<const OpenedData> opened_data() const override { return opened_; }
  nlohmann::json data_facts() const override;

 private:
  int64_t classes() const { return std::ssize(opened_->classes); }
  TextBatch training_batch(int64_t position) const;  // position = step * accumulation + micro
  static int64_t batches_of(const std::vector<EncodedText>& part);
  TextBatch batch_of(const std::vector<EncodedText>& part, int64_t index) const;
  at::Tensor logits_of(const TextBatch& batch, const std::optional<at::Generator>& generator = {});  // [B, C]
  struct Measured {
    ClassAccuracy accuracy;
    MatthewsCorrelation matthews;
  };
  Measured measure_part(const std::vector<EncodedText>& part);

  TextClassificationPlan plan_;
  BatchShape batch_;
  RowOptimizerOptions rows_;
  uint64_t seed_;
  std::shared_ptr<const OpenedTexts> opened_;
  std::shared_ptr<TextClassifier> model_;
  EpochOrder order_;
  MemoryWatch watch_;
  TrainingAccuracy right_;
  ProgressLine* progress_;
  ReadAhead<TextBatch> batches_;
};

// A checkpoint's model and what it needs, for use without data.
struct LoadedTextClassifier {
  std::shared_ptr<TextClassifier> model;
  Tokenizer tokenizer;
  std::vector<std::string> classes;
};
LoadedTextClassifier load_text_classifier(const TextClassificationPlan& plan, uint64_t seed,
                                          const CheckpointReader& checkpoint);
// [B, C] of the texts, without regard to their labels.
at::Tensor text_probabilities(const LoadedTextClassifier& loaded, std::span<const LabelledText> texts);

}  // namespace loci
