// Legend: B windows of a micro-batch, L positions of a window.
#include "loci/tasks/language_model.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "loci/base/durable_file.h"
#include "loci/base/random.h"
#include "loci/train/table_home.h"

namespace loci {
namespace {

constexpr const char* kTokenizerFile = "tokenizer.model";

TokenData open_data(const LanguageModelPlan& plan, const TaskInputs& inputs) {
  if (inputs.training && plan.model.has_memory && plan.model.memory.value_dtype == "int8") {
    fail(ExitCode::usage, "language_model", "model.memory.value_dtype must be float32 or bfloat16 to be trained",
         "int8");
  }
  TokenData tokens = inputs.checkpoint.empty()
                         ? open_tokens(inputs.data, plan.data.text, plan.tokenizer, inputs.cache, *inputs.progress)
                         : open_tokens(inputs.data, plan.data.text,
                                       Tokenizer::load(read_text_file(inputs.checkpoint / kTokenizerFile)),
                                       inputs.cache, *inputs.progress);
  for (const std::string& notice : tokens.notices) inputs.progress->finish(notice);
  return tokens;
}

nlohmann::json measures_of(int64_t layer, const Usage& usage) {
  const UsageMetrics m = usage.metrics();
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

at::Tensor zeros_for(const Usage& usage, at::ScalarType type) {
  return at::zeros({usage.rows()}, type);
}

}  // namespace

void LanguageModelData::fields(ConfigFields& f) {
  text.fields(f);
  f.field("evaluation_tokens", evaluation_tokens, {.minimum = 0});
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
      tokens_(open_data(plan, inputs)),
      model_(
          std::make_shared<TransformerLm>(plan.model_for(tokens_.tokenizer.vocabulary()), inputs.seed, inputs.tables)),
      sampler_(tokens_.train, window_, batch_.per_micro_batch(), inputs.seed, batch_.accumulation),
      evaluation_(tokens_.validation, window_, batch_.per_micro_batch()),
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
  return model_->loss(batch.input, batch.target, context);
}

nlohmann::json LanguageModelTask::evaluate() {
  for (const auto& [layer, memory] : memories()) memory->evaluation_usage().clear();
  const int64_t all = evaluation_.batches();
  const int64_t per_batch = tokens_per_micro_batch();
  const int64_t limit = plan_.data.evaluation_tokens;
  const int64_t wanted = limit == 0 ? all : std::clamp<int64_t>((limit + per_batch - 1) / per_batch, 1, all);
  double nats = 0;
  int64_t tokens = 0;
  int64_t bytes = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    int64_t targets = 0;
    const Batch batch = validation_batch(i * all / wanted, &targets);
    BlockContext context;
    if (targets < per_batch) context.token_mask = batch.target.ge(0);
    nats += model_->loss(batch.input, batch.target, context).item<double>() * static_cast<double>(targets);
    tokens += targets;
    const auto* target = batch.target.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < per_batch; ++t) {
      if (target[t] >= 0) bytes += token_bytes_[static_cast<size_t>(target[t])];
    }
  }
  nlohmann::json result = {{"loss", nats / static_cast<double>(tokens)},
                           {"bits_per_byte", nats / std::log(2.0) / static_cast<double>(std::max<int64_t>(1, bytes))},
                           {"tokens", tokens},
                           {"memories", nlohmann::json::array()}};
  for (const auto& [layer, memory] : memories()) {
    result["memories"].push_back(measures_of(layer, memory->evaluation_usage()));
  }
  return result;
}

int64_t LanguageModelTask::infer(int64_t position) {
  const Batch batch = validation_batch(position % std::max<int64_t>(1, evaluation_.batches() - 1));
  model_->forward(batch.input);
  return tokens_per_micro_batch();
}

// The counters of a logged window stay until the next step, so that a checkpoint between them holds them.
void LanguageModelTask::before_step(int64_t step, OptimizerSet& optimizers) {
  if (window_ended_.item<int64_t>() != 0) {
    for (const auto& [layer, memory] : memories()) memory->training_usage().reset_window();
    window_ended_.zero_();
  }
  for (const auto& [layer, memory] : memories()) memory->set_step(step);
  const TransformerLmOptions& options = model_->options();
  if (options.has_memory && options.memory.calibrate_at == step) calibrate_memories(step, optimizers);
}

// Each memory in turn, for the inputs of a later one change with those before it. The tokens are those of the steps to
// come, so that a resumed run sees the same.
void LanguageModelTask::calibrate_memories(int64_t step, OptimizerSet& optimizers) {
  const auto memories = model_->memories();
  for (size_t i = 0; i < memories.size(); ++i) {
    ProductKeyMemory& memory = *memories[i].second;
    std::vector<at::Tensor> inputs;
    for (int64_t have = 0; have < model_->options().memory.calibrate_tokens; have += tokens_per_micro_batch()) {
      const Batch batch = training_batch(step * batch_.accumulation + std::ssize(inputs));
      inputs.push_back(model_->memory_inputs(batch.input)[i]);
    }
    CalibrateOptions options;
    options.seed = CounterRandom(seed_, "calibrate").bits(i);
    calibrate(memory, at::cat(inputs), options);
    for (const at::Tensor& parameter : {memory.query_weight.back(), memory.query_bias.back(), memory.norm_gain,
                                        memory.norm_bias, memory.temperature, memory.keys1, memory.keys2}) {
      if (parameter.defined()) optimizers.clear_state(parameter);
    }
    optimizers.rows_of(*memory.table()).clear_state();
  }
}

nlohmann::json LanguageModelTask::training_measures() {
  double usage = 0;
  double kl = 0;
  const auto list = memories();
  for (const auto& [layer, memory] : list) {
    const UsageMetrics metrics = memory->training_usage().metrics();
    usage += metrics.usage / static_cast<double>(list.size());
    kl += metrics.kl / static_cast<double>(list.size());
  }
  window_ended_.fill_(1);
  if (list.empty()) return nlohmann::json::object();
  return {{"usage", usage}, {"kl", kl}};
}

std::vector<std::pair<std::string, at::Tensor>> LanguageModelTask::extra_state() {
  std::vector<std::pair<std::string, at::Tensor>> result = {{"window_ended", window_ended_}};
  for (const auto& [layer, memory] : memories()) {
    UsageTensors& tensors = usage_tensors_[layer];
    const Usage& usage = memory->training_usage();
    if (!tensors.reads.defined()) {
      tensors = {zeros_for(usage, at::kLong), zeros_for(usage, at::kLong), zeros_for(usage, at::kDouble),
                 zeros_for(usage, at::kLong)};
    }
    const auto rows = usage.state();
    for (size_t i = 0; i < rows.size(); ++i) {
      tensors.reads.mutable_data_ptr<int64_t>()[i] = rows[i].reads;
      tensors.top_reads.mutable_data_ptr<int64_t>()[i] = rows[i].top_reads;
      tensors.weight.mutable_data_ptr<double>()[i] = rows[i].weight;
      tensors.last_touch.mutable_data_ptr<int64_t>()[i] = rows[i].last_touch;
    }
    result.emplace_back(fmt::format("{}.reads", layer), tensors.reads);
    result.emplace_back(fmt::format("{}.top_reads", layer), tensors.top_reads);
    result.emplace_back(fmt::format("{}.weight", layer), tensors.weight);
    result.emplace_back(fmt::format("{}.last_touch", layer), tensors.last_touch);
  }
  return result;
}

void LanguageModelTask::extra_state_loaded() {
  for (const auto& [layer, memory] : memories()) {
    const UsageTensors& tensors = usage_tensors_.at(layer);
    const auto rows = memory->training_usage().state();
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i] = {.reads = tensors.reads.const_data_ptr<int64_t>()[i],
                 .top_reads = tensors.top_reads.const_data_ptr<int64_t>()[i],
                 .weight = tensors.weight.const_data_ptr<double>()[i],
                 .last_touch = tensors.last_touch.const_data_ptr<int64_t>()[i]};
    }
  }
}

std::vector<std::pair<std::string, std::string>> LanguageModelTask::files() {
  return {{kTokenizerFile, tokens_.tokenizer.save()}};
}

std::vector<std::pair<int64_t, MemoryLayer*>> LanguageModelTask::memories() {
  std::vector<std::pair<int64_t, MemoryLayer*>> result;
  for (const auto& [layer, memory] : model_->memories()) result.emplace_back(layer, memory.get());
  for (const auto& [layer, memory] : model_->flat_memories()) result.emplace_back(layer, memory.get());
  return result;
}

LoadedLanguageModel load_language_model(const RunConfig& config, const CheckpointReader& checkpoint) {
  const auto* plan = dynamic_cast<const LanguageModelPlan*>(config.plan.get());
  if (plan == nullptr) fail(ExitCode::usage, "generate", "the run must be a language model", config.task);
  Tokenizer tokenizer = Tokenizer::load(read_text_file(checkpoint.file(kTokenizerFile)));
  auto model = std::make_shared<TransformerLm>(plan->model_for(tokenizer.vocabulary()),
                                               static_cast<uint64_t>(config.seed), serving_tables(checkpoint));
  load_model(checkpoint, *model, model->tables());
  model->eval();
  return {std::move(model), std::move(tokenizer)};
}

int64_t LanguageModelPlan::data_bytes(const std::filesystem::path& folder) const {
  namespace fs = std::filesystem;
  const auto wanted = [this](const fs::path& path) {
    const auto& extensions = data.text.extensions;
    return extensions.empty() || std::find(extensions.begin(), extensions.end(), path.extension()) != extensions.end();
  };
  std::error_code error;
  uintmax_t bytes = fs::is_regular_file(folder, error) ? fs::file_size(folder, error) : 0;
  for (fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied, error), end;
       !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_regular_file(ignored) && wanted(entry->path())) bytes += entry->file_size(ignored);
  }
  // Two bytes a token; a token of a small BPE vocabulary is worth 3 to 4 bytes of text.
  return static_cast<int64_t>(tokenizer.kind == "bytes" ? 2 * bytes : 2 * bytes / 3);
}

std::unique_ptr<Task> LanguageModelPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<LanguageModelTask>(*this, inputs);
}

}  // namespace loci
