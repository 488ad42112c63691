// Legend: B windows of a micro-batch, L positions of a window.
#include "loci/tasks/language_model.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <iterator>

#include "loci/base/durable_file.h"
#include "loci/base/random.h"
#include "loci/base/stop_signal.h"
#include "loci/nn/memory/calibrate.h"
#include "loci/train/table_home.h"

namespace loci {
namespace {

constexpr const char* kTokenizerFile = "tokenizer.model";

Tokenizer load_tokenizer(const std::filesystem::path& file) {
  return Tokenizer::load(read_text_file(file), file.string());
}

std::shared_ptr<const OpenedText> open_data(const LanguageModelPlan& plan, const TaskInputs& inputs) {
  if (inputs.training && plan.model.has_memory && plan.model.memory.value_dtype == "int8") {
    fail(ExitCode::usage, "language_model", "model.memory.value_dtype must be float32 or bfloat16 to be trained",
         "int8");
  }
  const std::string tokenizer = inputs.checkpoint.empty() ? "" : read_text_file(inputs.checkpoint / kTokenizerFile);
  const auto opened = std::dynamic_pointer_cast<const OpenedText>(inputs.opened);
  if (opened && (tokenizer.empty() || tokenizer == opened->tokens.tokenizer.save())) return opened;
  TokenData tokens = tokenizer.empty()
                         ? open_tokens(inputs.data, plan.data.text, plan.tokenizer, inputs.cache, *inputs.progress)
                         : open_tokens(inputs.data, plan.data.text, load_tokenizer(inputs.checkpoint / kTokenizerFile),
                                       inputs.cache, *inputs.progress);
  for (const std::string& notice : tokens.notices) inputs.progress->finish(notice);
  return std::make_shared<const OpenedText>(std::move(tokens));
}

nlohmann::json facts_of(int64_t layer, const UsageMetrics& m) {
  return {{"layer", layer},
          {"usage", m.usage},
          {"usage_at_1", m.usage_at_1},
          {"kl", m.kl},
          {"gini", m.gini},
          {"rows_50", m.rows_50},
          {"rows_90", m.rows_90},
          {"rows_99", m.rows_99},
          {"collision", m.collision},
          {"never_touched", m.never_touched}};
}

// Observes every memory of the list until the end of its life.
class CountingScope {
 public:
  template <class List>
  explicit CountingScope(const List& list) {
    for (const auto& counted : list) scopes_.emplace_back(*counted.memory, counted.usage);
  }

 private:
  std::deque<ObserverScope> scopes_;
};

}  // namespace

void LanguageModelData::fields(ConfigFields& f) {
  text.fields(f);
  f.field("evaluation_tokens", evaluation_tokens, "tokens of the validation part that are measured; 0: all",
          {.minimum = 0});
}

void LanguageModelPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("tokenizer", tokenizer);
  f.section("model", model);
}

TransformerLmOptions LanguageModelPlan::model_for(int64_t vocabulary) const {
  TransformerLmOptions options = model;
  if (options.vocabulary == 0) options.vocabulary = vocabulary;
  return options;
}

std::unique_ptr<TaskPlan> language_model_plan() {
  return std::make_unique<LanguageModelPlan>();
}

LanguageModelTask::LanguageModelTask(const LanguageModelPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      rows_(inputs.rows),
      seed_(inputs.seed),
      window_(plan.model.context),
      cache_(inputs.cache),
      opened_(open_data(plan, inputs)),
      tokens_(opened_->tokens),
      model_(
          std::make_shared<TransformerLm>(plan.model_for(tokens_.tokenizer.vocabulary()), inputs.seed, inputs.tables)),
      sampler_(tokens_.train, window_, batch_.per_micro_batch(), inputs.seed, batch_.accumulation),
      evaluation_(tokens_.validation, window_, batch_.per_micro_batch()),
      trained_(counters()),
      progress_(inputs.progress),
      counted_from_(at::zeros({1}, at::kLong)),
      window_ended_(at::zeros({1}, at::kLong)),
      batches_([this](int64_t position) { return training_batch(position); }) {
  if (model_->options().vocabulary < tokens_.tokenizer.vocabulary()) {
    fail(ExitCode::usage, "language_model",
         fmt::format("model.vocabulary must be 0 or at least the tokenizer's {}", tokens_.tokenizer.vocabulary()),
         fmt::to_string(model_->options().vocabulary));
  }
  for (int64_t token = 0; token < tokens_.tokenizer.vocabulary(); ++token) {
    token_bytes_.push_back(std::ssize(tokens_.tokenizer.bytes_of(static_cast<int32_t>(token))));
  }
}

std::vector<std::pair<TablePtr, RowOptimizerOptions>> LanguageModelTask::tables() {
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> result;
  for (const TablePtr& table : model_->tables()) result.emplace_back(table, rows_);
  return result;
}

LanguageModelTask::Batch LanguageModelTask::training_batch(int64_t position) const {
  const std::vector<int64_t> shape = {batch_.per_micro_batch(), window_};
  Batch batch{at::empty(shape, at::kLong), at::empty(shape, at::kLong)};
  sampler_.fill(position / batch_.accumulation, position % batch_.accumulation, batch.input.mutable_data_ptr<int64_t>(),
                batch.target.mutable_data_ptr<int64_t>());
  return batch;
}

LanguageModelTask::Batch LanguageModelTask::validation_batch(int64_t index, int64_t* targets) const {
  const std::vector<int64_t> shape = {batch_.per_micro_batch(), window_};
  Batch batch{at::empty(shape, at::kLong), at::empty(shape, at::kLong)};
  const int64_t count =
      evaluation_.fill(index, batch.input.mutable_data_ptr<int64_t>(), batch.target.mutable_data_ptr<int64_t>());
  if (targets != nullptr) *targets = count;
  return batch;
}

at::Tensor LanguageModelTask::loss(int64_t step, int64_t micro) {
  const int64_t position = step * batch_.accumulation + micro;
  const Batch batch = batches_.take(position);
  const uint64_t dropout_seed = CounterRandom(seed_, "dropout").bits(static_cast<uint64_t>(position));
  BlockContext context;
  context.generator = at::detail::createCPUGenerator(dropout_seed);
  const CountingScope counting(trained_);
  return model_->loss(batch.input, batch.target, context);
}

double TextLoss::bits_per_byte() const {
  return nats / std::log(2.0) / static_cast<double>(std::max<int64_t>(1, bytes));
}

std::vector<int64_t> LanguageModelTask::evaluated_batches() const {
  const int64_t all = evaluation_.batches();
  const int64_t per_batch = units_per_micro_batch();
  const int64_t limit = plan_.data.evaluation_tokens;
  const int64_t wanted = limit == 0 ? all : std::clamp<int64_t>((limit + per_batch - 1) / per_batch, 1, all);
  std::vector<int64_t> batches;
  for (int64_t i = 0; i < wanted; ++i) batches.push_back(i * all / wanted);
  return batches;
}

Evaluation LanguageModelTask::evaluate() {
  const std::vector<Counted> counted = counters();
  const CountingScope counting(counted);
  const int64_t per_batch = units_per_micro_batch();
  const std::vector<int64_t> batches = evaluated_batches();
  TextLoss text;
  for (const int64_t index : batches) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) {
      progress_->show(fmt::format("evaluating: {} of {} {}", format_count(static_cast<double>(text.tokens)),
                                  format_count(static_cast<double>(std::ssize(batches) * per_batch)), unit()));
    }
    int64_t targets = 0;
    const Batch batch = validation_batch(index, &targets);
    BlockContext context;
    if (targets < per_batch) context.token_mask = batch.target.ge(0);
    text.nats += model_->loss(batch.input, batch.target, context).item<double>() * static_cast<double>(targets);
    text.tokens += targets;
    const auto* target = batch.target.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < per_batch; ++t) {
      if (target[t] >= 0) text.bytes += token_bytes_[static_cast<size_t>(target[t])];
    }
  }
  Evaluation result{{text.per_token(), text.bits_per_byte()},
                    {{"tokens", text.tokens}, {"memories", nlohmann::json::array()}}};
  double usage = 0;
  double kl = 0;
  const auto count = static_cast<double>(counted.size());
  for (const auto& [layer, memory, counts] : counted) {
    const UsageMetrics metrics = counts->metrics();
    usage += metrics.usage / count;
    kl += metrics.kl / count;
    result.details["memories"].push_back(facts_of(layer, metrics));
  }
  if (!counted.empty()) result.values.insert(result.values.end(), {usage, kl});
  return result;
}

std::vector<Measure> LanguageModelTask::measures() const {
  std::vector<Measure> measures = {
      {"loss", 3, true, "nats", "what the model misses of the validation text, in nats per token"},
      {"bits_per_byte", 3, true, "bits", "the same in bits per byte of text, comparable between tokenizers"}};
  if (model_->options().has_memory) {
    measures.push_back({"usage", 0, false, "%", "share of the memory's rows that the validation text reads"});
    measures.push_back({"kl", 2, true, "nats", "how unevenly it reads them: 0 when every row carries the same weight"});
  }
  return measures;
}

// Of the memories, as the evaluation counted their reads.
Account LanguageModelTask::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  for (const nlohmann::json& memory : evaluation.details.at("memories")) {
    const auto value = [&](const char* key) { return memory.at(key).get<double>(); };
    account.text += fmt::format("memory in layer {}: usage {:.1f} %, as first {:.1f} %, KL {:.3f}, Gini {:.3f}\n",
                                memory.at("layer").get<int64_t>(), 100 * value("usage"), 100 * value("usage_at_1"),
                                value("kl"), value("gini"));
  }
  return account;
}

int64_t LanguageModelTask::infer(int64_t position) {
  const Batch batch = validation_batch(position % std::max<int64_t>(1, evaluation_.batches() - 1));
  model_->forward(batch.input);
  return units_per_micro_batch();
}

// The counters of a logged window stay until the next step, so that a checkpoint between them holds them.
void LanguageModelTask::before_step(int64_t step, OptimizerSet& optimizers) {
  if (window_ended_.item<int64_t>() != 0) {
    counted_from_.fill_(step);
    window_ended_.zero_();
  }
  for (const auto& [layer, memory, usage] : trained_) {
    usage->begin_window(counted_from_.item<int64_t>());
    usage->set_step(step);
  }
  const TransformerLmOptions& options = model_->options();
  if (options.has_memory && options.memory.calibrate_at == step) calibrate_memories(step, optimizers);
}

// Each memory in turn, for the inputs of a later one change with those before it. The tokens are those of the steps to
// come, so that a resumed run sees the same.
void LanguageModelTask::calibrate_memories(int64_t step, OptimizerSet& optimizers) {
  const auto memories = model_->memories();
  for (size_t i = 0; i < memories.size(); ++i) {
    auto& memory = dynamic_cast<ProductKeyMemory&>(*memories[i].second);  // check_memory() refuses others
    std::vector<at::Tensor> inputs;
    for (int64_t have = 0; have < model_->options().memory.calibrate_tokens; have += units_per_micro_batch()) {
      const Batch batch = training_batch(step * batch_.accumulation + std::ssize(inputs));
      inputs.push_back(model_->memory_inputs(batch.input)[i]);
    }
    CalibrateOptions options;
    options.seed = CounterRandom(seed_, "calibrate").bits(i);
    calibrate(memory, at::cat(inputs), options);
    for (const at::Tensor& parameter : calibrated_parameters(memory)) optimizers.clear_state(parameter);
    optimizers.rows_of(*memory.table()).clear_state();
    trained_[i].usage->clear();
  }
}

// A window with fewer steps reads fewer rows: its numbers would say nothing.
nlohmann::json LanguageModelTask::training_measures(bool whole) {
  window_ended_.fill_(1);
  if (trained_.empty()) return nlohmann::json::object();
  if (!whole) return {{"usage", nullptr}, {"kl", nullptr}};
  double usage = 0;
  double kl = 0;
  for (const Counted& counted : trained_) {
    const auto [share, divergence] = counted.usage->usage_and_kl();
    usage += share;
    kl += divergence;
  }
  const auto count = static_cast<double>(trained_.size());
  return {{"usage", usage / count}, {"kl", kl / count}};
}

RowCounters LanguageModelTask::row_state(const Table& table, int64_t since) {
  RowCounters state;
  for (const auto& [layer, memory, usage] : trained_) {
    if (memory->table().get() != &table) continue;
    state.tensors.emplace_back(fmt::format("usage.{}", layer), usage->state());
    const std::vector<int64_t> before = std::move(state.changed), touched = usage->touched_since(since);
    state.changed.clear();
    std::set_union(before.begin(), before.end(), touched.begin(), touched.end(), std::back_inserter(state.changed));
  }
  return state;
}

std::vector<std::pair<std::string, at::Tensor>> LanguageModelTask::extra_state() {
  return {{"counted_from", counted_from_}, {"window_ended", window_ended_}};
}

std::vector<std::pair<std::string, std::string>> LanguageModelTask::files() {
  return {{kTokenizerFile, tokens_.tokenizer.save()}};
}

nlohmann::json LanguageModelTask::data_facts() const {
  return {{"training files", tokens_.train_files},        {"training bytes", tokens_.train_bytes},
          {"training tokens", tokens_.train.size()},      {"validation files", tokens_.validation_files},
          {"validation bytes", tokens_.validation_bytes}, {"validation tokens", tokens_.validation.size()},
          {"vocabulary", tokens_.tokenizer.vocabulary()}};
}

std::vector<LanguageModelTask::Counted> LanguageModelTask::counters() const {
  std::vector<Counted> result;
  for (const auto& [layer, memory] : model_->memories()) {
    result.push_back({layer, memory, std::make_shared<Usage>(memory->table()->rows())});
  }
  return result;
}

LoadedLanguageModel load_language_model(const RunConfig& config, const CheckpointReader& checkpoint) {
  const auto* plan = dynamic_cast<const LanguageModelPlan*>(config.plan.get());
  if (plan == nullptr) fail(ExitCode::usage, "generate", "the run must be a language model", config.task);
  Tokenizer tokenizer = load_tokenizer(checkpoint.file(kTokenizerFile));
  auto model = std::make_shared<TransformerLm>(plan->model_for(tokenizer.vocabulary()),
                                               static_cast<uint64_t>(config.seed), serving_tables(checkpoint));
  load_model(checkpoint, *model, model->tables());
  model->eval();
  return {std::move(model), std::move(tokenizer)};
}

int64_t LanguageModelPlan::data_bytes(const std::filesystem::path& folder) const {
  namespace fs = std::filesystem;
  std::error_code error;
  uintmax_t bytes = fs::is_regular_file(folder, error) ? fs::file_size(folder, error) : 0;
  for (fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied, error), end;
       !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->path().filename().string().starts_with('.')) {  // hidden, and left out
      entry.disable_recursion_pending();
    } else if (entry->is_regular_file(ignored) && has_extension(entry->path(), data.text.extensions)) {
      bytes += entry->file_size(ignored);
    }
  }
  // Two bytes a token; a token of a small BPE vocabulary is worth 3 to 4 bytes of text.
  return static_cast<int64_t>(tokenizer.kind == "bytes" ? 2 * bytes : 2 * bytes / 3);
}

std::string LanguageModelPlan::data_settings() const {
  return Config::write(data) + Config::write(tokenizer);
}

void LanguageModelPlan::convert_tables(const std::string& dtype) {
  if (!model.has_memory) fail(ExitCode::usage, "convert", "RUN must be a model with a memory", "one without");
  const std::string is = model.memory.value_dtype;
  if (is == dtype || is == "int8") {
    fail(ExitCode::usage, "convert",
         fmt::format("rows must be float32{} to become {}", dtype == "int8" ? " or bfloat16" : "", dtype), is);
  }
  model.memory.value_dtype = dtype;
}

std::unique_ptr<Task> LanguageModelPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<LanguageModelTask>(*this, inputs);
}

}  // namespace loci
