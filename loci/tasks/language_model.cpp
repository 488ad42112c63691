// Legend: B windows of a micro-batch, L positions of a window, V vocabulary.
#include "loci/tasks/language_model.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>

#include <algorithm>
#include <cmath>

#include "loci/base/durable_file.h"
#include "loci/base/random.h"
#include "loci/base/stop_signal.h"
#include "loci/data/folder_files.h"
#include "loci/distributed/exchange_plan.h"
#include "loci/models/vocabulary_loss.h"
#include "loci/train/table_home.h"

namespace loci {
namespace {

std::shared_ptr<const OpenedText> open_data(const LanguageModelPlan& plan, const TaskInputs& inputs) {
  if (inputs.training) refuse_int8_tables(plan.model, "language_model");
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

// In whole steps of this run, so that no window that was seen before comes again in the same epoch.
int64_t first_position(const TaskInputs& inputs, int64_t window) {
  const int64_t of_step = inputs.batch.batch * window;
  return (inputs.units_before + of_step - 1) / of_step * inputs.batch.accumulation;
}

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
  f.when(!model.causal, "model.causal is false", [&] { f.section("masking", masking); });
}

Tokenizer load_tokenizer(const std::filesystem::path& file) {
  return Tokenizer::load(read_text_file(file), file.string());
}

std::vector<WatchedMemory> watched_memories(const TransformerLm& model) {
  std::vector<WatchedMemory> memories;
  for (const auto& [layer, memory] : model.memories()) memories.push_back({layer, memory});
  return memories;
}

std::vector<std::pair<TablePtr, RowOptimizerOptions>> tables_of(const TransformerLm& model,
                                                                const RowOptimizerOptions& rows) {
  std::vector<std::pair<TablePtr, RowOptimizerOptions>> result;
  for (const TablePtr& table : model.tables()) result.emplace_back(table, rows);
  for (const auto& [layer, ngram] : model.ngrams()) {
    for (auto& [table, options] : result) {
      if (table == ngram->table()) options.learning_rate *= model.options().ngram.rate;
    }
  }
  return result;
}

void refuse_int8_tables(const TransformerLmOptions& model, const std::string& who) {
  const auto refuse = [&](bool present, const TableOptions& table, const char* section) {
    if (!present || table.value_dtype != "int8") return;
    fail(ExitCode::usage, who, fmt::format("{}.value_dtype must be float32 or bfloat16 to be trained", section),
         "int8");
  };
  refuse(model.has_memory, model.memory, "model.memory");
  refuse(model.has_ngram, model.ngram, "model.ngram");
}

int64_t model_vocabulary(const TransformerLmOptions& model, int64_t vocabulary) {
  return model.causal ? vocabulary : vocabulary + 1;
}

TransformerLmOptions with_vocabulary(TransformerLmOptions model, int64_t vocabulary, int64_t end_of_text) {
  model.end_of_text = end_of_text;
  if (model.vocabulary == 0) model.vocabulary = model_vocabulary(model, vocabulary);
  return model;
}

void check_vocabulary(const TransformerLmOptions& model, const Tokenizer& tokenizer, const std::string& who) {
  const int64_t needed = model_vocabulary(model, tokenizer.vocabulary());
  if (model.vocabulary >= needed) return;
  fail(ExitCode::usage, who,
       fmt::format("model.vocabulary must be 0 or at least the tokenizer's {}{}", tokenizer.vocabulary(),
                   model.causal ? "" : " and the mask symbol"),
       fmt::to_string(model.vocabulary));
}

std::unique_ptr<TaskPlan> language_model_plan() {
  return std::make_unique<LanguageModelPlan>();
}

LanguageModelTask::LanguageModelTask(const LanguageModelPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      rows_(inputs.rows),
      seed_(inputs.seed),
      ranks_(inputs.ranks),
      window_(plan.model.context),
      first_(first_position(inputs, plan.model.context)),
      cache_(inputs.cache),
      opened_(open_data(plan, inputs)),
      tokens_(opened_->tokens),
      model_(std::make_shared<TransformerLm>(
          plan.model_for(tokens_.tokenizer.vocabulary(), tokens_.tokenizer.end_of_text()), inputs.seed, inputs.tables)),
      sampler_(tokens_.train, window_, batch_.per_micro_batch(), inputs.seed, batch_.accumulation),
      evaluation_(tokens_.validation, window_, batch_.per_micro_batch()),
      training_masks_(plan.masking, tokens_.tokenizer.vocabulary(), inputs.seed, "masking"),
      evaluation_masks_(plan.masking, tokens_.tokenizer.vocabulary(), 0, "masking of evaluations"),
      watch_(watched_memories(*model_), inputs.ranks),
      progress_(inputs.progress),
      batches_([this](int64_t position) { return batch_with_rows(position); }) {
  check_vocabulary(model_->options(), tokens_.tokenizer, "language_model");
  set_ranks(*model_, inputs.ranks);
  if (masked()) check_masked_tokens();
  const MemoryOptions& memory = model_->options().memory;
  if (model_->options().has_memory && memory.has_reinitialise) {
    watch_.reinitialise(memory.reinitialise, memory.row_deviation(model_->options().width), seed_);
  }
  for (int64_t token = 0; token < tokens_.tokenizer.vocabulary(); ++token) {
    token_bytes_.push_back(std::ssize(tokens_.tokenizer.bytes_of(static_cast<int32_t>(token))));
  }
}

LanguageModelTask::Batch LanguageModelTask::training_batch(int64_t position) const {
  const std::vector<int64_t> shape = {batch_.per_micro_batch(), window_};
  Batch batch{at::empty(shape, at::kLong), at::empty(shape, at::kLong)};
  auto* const input = batch.input.mutable_data_ptr<int64_t>();
  auto* const target = batch.target.mutable_data_ptr<int64_t>();
  position += first_;
  sampler_.fill(position / batch_.accumulation, position % batch_.accumulation, input, target);
  if (masked()) training_masks_.apply(position * units_per_micro_batch(), units_per_micro_batch(), input, target);
  return batch;
}

// On the thread that makes batches ahead: the disk is asked for the rows that the text names.
LanguageModelTask::Batch LanguageModelTask::batch_with_rows(int64_t position) const {
  Batch batch = training_batch(position);
  if (model_->options().has_ngram && model_->options().ngram.home == TableHome::mapped) {
    const auto ngrams = model_->ngrams();
    const std::vector<at::Tensor> rows = model_->ngram_rows(batch.input);
    for (size_t i = 0; i < rows.size(); ++i) ngrams[i].second->table()->prefetch(rows[i]);
  }
  return batch;
}

LanguageModelTask::Batch LanguageModelTask::validation_batch(int64_t index, int64_t* targets) const {
  const std::vector<int64_t> shape = {batch_.per_micro_batch(), window_};
  Batch batch{at::empty(shape, at::kLong), at::empty(shape, at::kLong)};
  auto* const input = batch.input.mutable_data_ptr<int64_t>();
  auto* const target = batch.target.mutable_data_ptr<int64_t>();
  const int64_t all = units_per_micro_batch();
  int64_t count = evaluation_.fill(index, input, target);
  if (count < all) batch.token_mask = batch.target.ge(0);
  // Windows follow each other, so that a token's position is that in the text, whatever batch and context are.
  if (masked()) count = evaluation_masks_.apply(index * all, all, input, target);
  if (targets != nullptr) *targets = count;
  return batch;
}

LanguageModelTask::Slice LanguageModelTask::slice_of(const Batch& batch) const {
  if (ranks_.size == 1) return {batch};
  const std::vector<int64_t> first = equal_parts(batch.input.size(0), ranks_.size);
  const auto rank = static_cast<size_t>(ranks_.rank);
  const auto part = [&](const at::Tensor& x) { return x.defined() ? x.slice(0, first[rank], first[rank + 1]) : x; };
  Slice slice{{part(batch.input), part(batch.target), part(batch.token_mask)}};
  const auto targets = [](const at::Tensor& target) { return target.ge(0).sum().item<int64_t>(); };
  slice.share = static_cast<double>(targets(slice.batch.target) * ranks_.size) /
                static_cast<double>(std::max<int64_t>(1, targets(batch.target)));
  return slice;
}

// On several ranks the mean of their losses is that of the batch.
at::Tensor LanguageModelTask::loss(int64_t step, int64_t micro) {
  const int64_t position = step * batch_.accumulation + micro;
  const Slice slice = slice_of(batches_.take(position));
  const Batch& batch = slice.batch;
  const auto dropout_position = static_cast<uint64_t>(position * ranks_.size + ranks_.rank);
  const uint64_t dropout_seed = CounterRandom(seed_, "dropout").bits(dropout_position);
  BlockContext context;
  context.generator = at::detail::createCPUGenerator(dropout_seed);
  const auto observed = watch_.observe();
  const at::Tensor loss = model_->loss(batch.input, batch.target, context);
  return ranks_.size == 1 ? loss : loss * slice.share;
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
  const std::vector<Counted> memories = counters();
  std::vector<CountedNgrams> ngrams = ngram_counters();
  const auto observed = observe(memories, ngrams);
  const int64_t per_batch = units_per_micro_batch();
  const std::vector<int64_t> batches = evaluated_batches();
  TextLoss text;
  for (const int64_t index : batches) {
    if (ranks_.size == 1) StopSignal::check("stopped while the model was evaluated");  // else: the ranks stop together
    if (progress_ != nullptr) {
      progress_->show(fmt::format("evaluating: {} of {} {}", format_count(static_cast<double>(text.tokens)),
                                  format_count(static_cast<double>(std::ssize(batches) * per_batch)), unit()));
    }
    int64_t targets = 0;
    const Batch batch = validation_batch(index, &targets);
    for (CountedNgrams& ngram : ngrams) {
      ngram.collisions.add(batch.input, model_->document_starts(batch.input), batch.token_mask);
    }
    const Slice slice = slice_of(batch);
    BlockContext context;
    context.token_mask = slice.batch.token_mask;
    const double loss = model_->loss(slice.batch.input, slice.batch.target, context).item<double>();
    text.nats += mean_over(ranks_, loss * slice.share) * static_cast<double>(targets);
    text.tokens += targets;
    const auto* target = batch.target.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < per_batch; ++t) {
      if (target[t] >= 0) text.bytes += token_bytes_[static_cast<size_t>(target[t])];
    }
  }
  Evaluation result{{text.per_token()}, {{"tokens", text.tokens}}};
  if (!masked()) result.values.push_back(text.bits_per_byte());
  describe(memories, ngrams, result);
  return result;
}

void LanguageModelTask::check_masked_tokens() const {
  int64_t targets = 0;
  for (const int64_t index : evaluated_batches()) {
    validation_batch(index, &targets);
    if (targets > 0) return;
  }
  fail(ExitCode::input, "language_model", "the validation part must be so long that a token of it is masked",
       fmt::format("none of {} tokens", tokens_.validation.size()));
}

std::pair<at::Tensor, at::Tensor> LanguageModelTask::losses_of(const Batch& batch) {
  const int64_t logits = batch.input.size(1) * model_->options().vocabulary;  // of a window
  const int64_t at_once = std::max<int64_t>(1, vocabulary_loss_logits(model_->options().vocabulary) / logits);
  std::vector<at::Tensor> nats, likeliest;
  for (int64_t begin = 0; begin < batch.input.size(0); begin += at_once) {
    const int64_t end = std::min(begin + at_once, batch.input.size(0));
    const at::Tensor target = batch.target.slice(0, begin, end);
    const at::Tensor scores = model_->forward(batch.input.slice(0, begin, end));  // [B, L, V]
    const at::Tensor chosen = target.clamp_min(0).unsqueeze(-1);
    nats.push_back(at::log_softmax(scores, -1).gather(-1, chosen).squeeze(-1).neg().mul(target.ge(0)));
    likeliest.push_back(scores.argmax(-1).eq(target));
  }
  return {at::cat(nats), at::cat(likeliest)};
}

std::vector<Measure> LanguageModelTask::measures() const {
  std::vector<Measure> measures;
  if (masked()) {
    measures = {{"loss", 3, true, "nats", "what the model misses of masked validation tokens, in nats per token"}};
  } else {
    measures = {{"loss", 3, true, "nats", "what the model misses of the validation text, in nats per token"},
                {"bits_per_byte", 3, true, "bits", "the same in bits per byte of text, comparable between tokenizers"}};
  }
  if (model_->options().has_memory) {
    measures.push_back({"usage", 0, false, "%", "share of the memory's rows that the validation text reads"});
    measures.push_back({"kl", 2, true, "nats", "how unevenly it reads them: 0 when every row carries the same weight"});
  }
  return measures;
}

int64_t LanguageModelTask::infer(int64_t position) {
  const Batch batch = validation_batch(position % std::max<int64_t>(1, evaluation_.batches() - 1));
  model_->forward(batch.input);
  return units_per_micro_batch();
}

void LanguageModelTask::before_step(int64_t step, OptimizerSet& optimizers) {
  watch_.before_step(step);
  const TransformerLmOptions& options = model_->options();
  if (options.has_memory && options.memory.calibrate_at == step) calibrate_memories(step, optimizers);
}

std::vector<TaskEvent> LanguageModelTask::after_step(const StepMade& made, OptimizerSet& optimizers) {
  return watch_.after_step(made, optimizers);
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

LoadedLanguageModel load_language_model(const RunConfig& config, const CheckpointReader& checkpoint,
                                        const Ranks& ranks) {
  const auto* plan = dynamic_cast<const LanguageModelPlan*>(config.plan.get());
  if (plan == nullptr) fail(ExitCode::usage, "generate", "the run must be a language model", config.task);
  if (!plan->model.causal) {
    fail(ExitCode::usage, "generate", "the run must be a causal language model",
         "one that fills in masked tokens (model.causal is false)");
  }
  Tokenizer tokenizer = load_tokenizer(checkpoint.file(kTokenizerFile));
  auto model = std::make_shared<TransformerLm>(plan->model_for(tokenizer.vocabulary(), tokenizer.end_of_text()),
                                               static_cast<uint64_t>(config.seed), serving_tables(checkpoint, ranks));
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
  if (!model.has_memory && !model.has_ngram) {
    fail(ExitCode::usage, "convert", "RUN must be a model with a memory", "one without");
  }
  const auto convert = [&](bool present, TableOptions& table) {
    if (!present) return;
    if (table.value_dtype == dtype || table.value_dtype == "int8") {
      fail(ExitCode::usage, "convert",
           fmt::format("rows must be float32{} to become {}", dtype == "int8" ? " or bfloat16" : "", dtype),
           table.value_dtype);
    }
    table.value_dtype = dtype;
  };
  convert(model.has_memory, model.memory);
  convert(model.has_ngram, model.ngram);
}

std::unique_ptr<Task> LanguageModelPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<LanguageModelTask>(*this, inputs);
}

}  // namespace loci
