// Legend: B texts of a batch, L tokens of the longest, C classes.
#include "loci/tasks/text_classification.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/base/durable_file.h"
#include "loci/base/paths.h"
#include "loci/base/random.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/language_model.h"
#include "loci/train/table_home.h"

namespace loci {
namespace {

constexpr int64_t kTextsAtOnce = 64;  // of an evaluation
constexpr const char* kClassesFile = "classes.json";
constexpr int64_t kAssumedLabels = 2;

std::string classes_json(const std::vector<std::string>& classes) {
  return nlohmann::json(classes).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::vector<EncodedText> encode_part(const Tokenizer& tokenizer, const std::vector<LabelledText>& texts,
                                     int64_t context) {
  std::vector<EncodedText> part;
  for (const LabelledText& text : texts) part.push_back({tokens_of_text(tokenizer, text, context), text.label});
  return part;
}

Tokenizer learned_tokenizer(const TokenizerOptions& options, const LabelledTexts& texts) {
  int64_t bytes = 0;
  for (const LabelledText& text : texts.train) bytes += std::ssize(text.text) + std::ssize(text.pair) + 1;
  size_t next = 0;
  return Tokenizer::train(options, bytes, [&](std::string& text) {
    if (next == texts.train.size()) return false;
    text = texts.train[next].text + "\n" + texts.train[next].pair;
    ++next;
    return true;
  });
}

// With the tokenizer of a checkpoint, which may be the language model's that the run starts from.
std::shared_ptr<const OpenedTexts> open_texts(const TextClassificationPlan& plan, const TaskInputs& inputs) {
  if (inputs.training) refuse_int8_tables(plan.model, "text_classification");
  std::optional<Tokenizer> given;
  if (!inputs.checkpoint.empty()) given = load_tokenizer(inputs.checkpoint / kTokenizerFile);
  const auto known = std::dynamic_pointer_cast<const OpenedTexts>(inputs.opened);
  if (known && (!given || given->save() == known->tokenizer.save())) return known;
  const LabelledTexts texts = read_labelled_texts(inputs.data, plan.data);
  auto opened = std::make_shared<OpenedTexts>(given ? *given : learned_tokenizer(plan.tokenizer, texts));
  opened->classes = texts.classes;
  opened->train = encode_part(opened->tokenizer, texts.train, plan.model.context);
  opened->validation = encode_part(opened->tokenizer, texts.validation, plan.model.context);
  opened->test = encode_part(opened->tokenizer, texts.test, plan.model.context);
  opened->key = texts.inventory.key();
  return opened;
}

// A network serves the classes that it was trained on. A language model that a run starts from has none.
void check_classes_of_run(const std::vector<std::string>& classes, const TaskInputs& inputs) {
  const std::filesystem::path file = inputs.checkpoint / kClassesFile;
  if (inputs.checkpoint.empty() || !path_exists(file)) return;
  const std::string kept = read_text_file(file), got = classes_json(classes);
  if (got != kept) fail(ExitCode::input, inputs.data.string(), "labels must be those of the run, " + kept, got);
}

}  // namespace

void ClassifierOptions::fields(ConfigFields& f) {
  f.choice("pooling", pooling, "what stands for a text: the mean of its tokens' outputs, the first, or the last",
           {{"mean", TextPooling::mean}, {"first", TextPooling::first}, {"last", TextPooling::last}});
}

void TextClassificationPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("tokenizer", tokenizer);
  f.section("model", model);
  f.section("classifier", classifier);
}

void TextClassificationPlan::check() const {
  const auto refuse = [](const std::string& expected, const std::string& got) {
    fail(ExitCode::usage, "text_classification", expected, got);
  };
  data.check();
  TransformerLm::count_parameters(with_vocabulary(model, tokenizer.vocabulary));
  const int64_t least = least_text_tokens(!data.pair.empty());
  if (model.context < least) {
    refuse(fmt::format("model.context must be at least {}", least), fmt::to_string(model.context));
  }
  if (model.causal && classifier.pooling == TextPooling::first) {
    refuse("classifier.pooling must be mean or last where model.causal is true", "first");
  }
  if (!model.has_memory) return;
  if (model.memory.calibrate_at >= 0) {
    refuse("model.memory.calibrate_at must be -1 (a language model is calibrated)",
           fmt::to_string(model.memory.calibrate_at));
  }
  if (model.memory.has_reinitialise) refuse("model.memory.reinitialise must be absent", "[model.memory.reinitialise]");
}

RunSize TextClassificationPlan::size(const BatchShape& batch, const RowOptimizerOptions& rows, bool bfloat16) const {
  LanguageModelPlan text;
  text.tokenizer = tokenizer;
  text.model = model;
  RunSize size = text.size(batch, rows, bfloat16);
  size.units_per_step = batch.batch;
  const int64_t head = TextClassifier::count_head(model.width, kAssumedLabels);
  size.parameters_dense = checked_sum("model", "parameters", size.parameters_dense, head);
  return size;
}

std::string TextClassificationPlan::data_settings() const {
  return Config::write(data) + Config::write(tokenizer) + fmt::format("context = {}\n", model.context);
}

std::unique_ptr<Task> TextClassificationPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<TextClassification>(*this, inputs);
}

std::unique_ptr<TaskPlan> text_classification_plan() {
  return std::make_unique<TextClassificationPlan>();
}

TextBatch text_batch(const std::vector<const EncodedText*>& texts, int64_t end_of_text) {
  int64_t longest = 0;
  for (const EncodedText* text : texts) longest = std::max<int64_t>(longest, std::ssize(text->tokens));
  const int64_t count = std::ssize(texts);
  TextBatch batch{at::full({count, longest}, end_of_text, at::kLong), at::zeros({count, longest}, at::kBool),
                  at::zeros({count}, at::kLong)};
  auto* tokens = batch.tokens.mutable_data_ptr<int64_t>();
  auto* mask = batch.token_mask.mutable_data_ptr<bool>();
  auto* labels = batch.labels.mutable_data_ptr<int64_t>();
  for (const EncodedText* text : texts) {
    std::copy(text->tokens.begin(), text->tokens.end(), tokens);
    std::fill_n(mask, text->tokens.size(), true);
    *labels++ = text->label;
    tokens += longest;
    mask += longest;
  }
  return batch;
}

void MatthewsCorrelation::add(const at::Tensor& predicted, const at::Tensor& labels) {
  const at::Tensor p = predicted.contiguous(), l = labels.contiguous();
  const auto *const guess = p.const_data_ptr<int64_t>(), *const truth = l.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < l.numel(); ++i) ++counts_[truth[i]][guess[i]];
}

double MatthewsCorrelation::value() const {
  const auto tn = static_cast<double>(counts_[0][0]), fp = static_cast<double>(counts_[0][1]);
  const auto fn = static_cast<double>(counts_[1][0]), tp = static_cast<double>(counts_[1][1]);
  const double product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn);
  return product == 0 ? 0 : (tp * tn - fp * fn) / std::sqrt(product);
}

TextClassification::TextClassification(const TextClassificationPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      rows_(inputs.rows),
      seed_(inputs.seed),
      opened_(open_texts(plan, inputs)),
      model_(std::make_shared<TextClassifier>(
          with_vocabulary(plan.model, opened_->tokenizer.vocabulary(), opened_->tokenizer.end_of_text()),
          plan.classifier.pooling, classes(), inputs.seed, inputs.tables)),
      order_(std::ssize(opened_->train), inputs.seed),
      watch_(watched_memories(*model_)),
      progress_(inputs.progress),
      batches_([this](int64_t position) { return training_batch(position); }) {
  check_classes_of_run(opened_->classes, inputs);
  check_vocabulary(model_->options(), opened_->tokenizer, "text_classification");
}

std::vector<std::pair<TablePtr, RowOptimizerOptions>> TextClassification::tables() {
  return tables_of(*model_, rows_);
}

TextBatch TextClassification::training_batch(int64_t position) const {
  std::vector<const EncodedText*> texts;
  for (int64_t b = 0; b < batch_.per_micro_batch(); ++b) {
    const int64_t item = order_.at(position * batch_.per_micro_batch() + b).item;
    texts.push_back(&opened_->train[static_cast<size_t>(item)]);
  }
  return text_batch(texts, opened_->tokenizer.end_of_text());
}

int64_t TextClassification::batches_of(const std::vector<EncodedText>& part) {
  return (std::ssize(part) + kTextsAtOnce - 1) / kTextsAtOnce;
}

TextBatch TextClassification::batch_of(const std::vector<EncodedText>& part, int64_t index) const {
  std::vector<const EncodedText*> texts;
  const int64_t end = std::min((index + 1) * kTextsAtOnce, std::ssize(part));
  for (int64_t i = index * kTextsAtOnce; i < end; ++i) texts.push_back(&part[static_cast<size_t>(i)]);
  return text_batch(texts, opened_->tokenizer.end_of_text());
}

at::Tensor TextClassification::logits_of(const TextBatch& batch, const std::optional<at::Generator>& generator) {
  BlockContext context;
  context.token_mask = batch.token_mask;
  context.generator = generator;
  return model_->classify(batch.tokens, context);
}

at::Tensor TextClassification::loss(int64_t step, int64_t micro) {
  const int64_t position = step * batch_.accumulation + micro;
  const TextBatch batch = batches_.take(position);
  const uint64_t dropout_seed = CounterRandom(seed_, "dropout").bits(static_cast<uint64_t>(position));
  const auto observed = watch_.observe();
  const at::Tensor logits = logits_of(batch, at::detail::createCPUGenerator(dropout_seed));
  right_.add(logits, batch.labels);
  return at::cross_entropy_loss(logits, batch.labels);
}

std::vector<Measure> TextClassification::measures() const {
  std::vector<Measure> measures = ClassAccuracy::measures(classes(), "validation text");
  const bool two = classes() == 2;
  const auto add_matthews = [&](const std::string& name, const std::string& part) {
    measures.push_back(
        {name, 3, false, "", fmt::format("Matthews correlation of the {} texts: 0 for chance, 1 for all right", part)});
  };
  if (two) add_matthews("matthews", "validation");
  if (opened_->test.empty()) return measures;
  measures.push_back({"test_accuracy", 1, false, "%", "share of the test texts whose class is the likeliest"});
  if (two) add_matthews("test_matthews", "test");
  return measures;
}

TextClassification::Measured TextClassification::measure_part(const std::vector<EncodedText>& part) {
  Measured measured{ClassAccuracy(classes()), {}};
  for (int64_t index = 0; index < batches_of(part); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} texts", measured.accuracy.samples()));
    const TextBatch batch = batch_of(part, index);
    const at::Tensor logarithm = at::log_softmax(logits_of(batch), 1);
    measured.accuracy.add(logarithm, batch.labels);
    if (classes() == 2) measured.matthews.add(logarithm.argmax(1), batch.labels);
  }
  return measured;
}

Evaluation TextClassification::evaluate() {
  const Measured validation = measure_part(opened_->validation);
  Evaluation result{validation.accuracy.values(),
                    {{"texts", validation.accuracy.samples()}, {"accuracy_interval", validation.accuracy.interval()}}};
  if (classes() == 2) result.values.push_back(validation.matthews.value());
  if (opened_->test.empty()) return result;
  const Measured test = measure_part(opened_->test);
  result.values.push_back(test.accuracy.values().front());
  if (classes() == 2) result.values.push_back(test.matthews.value());
  result.details["test_texts"] = test.accuracy.samples();
  result.details["test_accuracy_interval"] = test.accuracy.interval();
  return result;
}

Account TextClassification::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const std::vector<Measure> names = measures();
  for (const auto& [part, prefix] : {std::pair("validation", ""), std::pair("test", "test_")}) {
    const nlohmann::json& details = evaluation.details;
    if (!details.contains(prefix + std::string("accuracy_interval"))) continue;
    const auto value = [&](const std::string& name) {
      const auto found = std::find_if(names.begin(), names.end(), [&](const Measure& m) { return m.name == name; });
      return evaluation.values[static_cast<size_t>(found - names.begin())];
    };
    account.text += fmt::format(
        "{} {} texts of {} classes: {}", details.at(prefix + std::string("texts")).get<int64_t>(), part, classes(),
        accuracy_text(value(prefix + std::string("accuracy")), details.at(prefix + std::string("accuracy_interval"))));
    if (classes() == 2) {
      account.text += fmt::format(", Matthews correlation {:.3f}", value(prefix + std::string("matthews")));
    }
    account.text += "\n";
  }
  return account;
}

int64_t TextClassification::infer(int64_t position) {
  const TextBatch batch = batch_of(opened_->validation, position % batches_of(opened_->validation));
  logits_of(batch);
  return batch.labels.size(0);
}

nlohmann::json TextClassification::training_measures(bool whole) {
  nlohmann::json measures = watch_.training_measures(whole);
  measures.update(right_.take());
  return measures;
}

std::vector<std::pair<std::string, at::Tensor>> TextClassification::extra_state() {
  auto state = watch_.extra_state();
  state.push_back(right_.state());
  return state;
}

std::vector<std::pair<std::string, std::string>> TextClassification::files() {
  return {{kTokenizerFile, opened_->tokenizer.save()}, {kClassesFile, classes_json(opened_->classes)}};
}

nlohmann::json TextClassification::data_facts() const {
  return {{"training texts", opened_->train.size()},
          {"validation texts", opened_->validation.size()},
          {"test texts", opened_->test.size()},
          {"classes", opened_->classes.size()},
          {"vocabulary", opened_->tokenizer.vocabulary()}};
}

LoadedTextClassifier load_text_classifier(const TextClassificationPlan& plan, uint64_t seed,
                                          const CheckpointReader& checkpoint) {
  Tokenizer tokenizer = load_tokenizer(checkpoint.file(kTokenizerFile));
  const std::filesystem::path file = checkpoint.file(kClassesFile);
  std::vector<std::string> classes;
  try {
    classes = nlohmann::json::parse(read_text_file(file)).get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception& error) {
    fail(ExitCode::input, file.string(), "the file must hold the names of classes", error.what());
  }
  auto model =
      std::make_shared<TextClassifier>(with_vocabulary(plan.model, tokenizer.vocabulary(), tokenizer.end_of_text()),
                                       plan.classifier.pooling, std::ssize(classes), seed, serving_tables(checkpoint));
  load_model(checkpoint, *model, model->tables());
  model->eval();
  return {std::move(model), std::move(tokenizer), std::move(classes)};
}

at::Tensor text_probabilities(const LoadedTextClassifier& loaded, std::span<const LabelledText> texts) {
  std::vector<EncodedText> encoded;
  for (const LabelledText& text : texts) {
    encoded.push_back({tokens_of_text(loaded.tokenizer, text, loaded.model->options().context), 0});
  }
  std::vector<const EncodedText*> parts;
  for (const EncodedText& text : encoded) parts.push_back(&text);
  const TextBatch batch = text_batch(parts, loaded.tokenizer.end_of_text());
  BlockContext context;
  context.token_mask = batch.token_mask;
  return at::softmax(loaded.model->classify(batch.tokens, context), 1);
}

}  // namespace loci
