// Legend: B texts of a batch, N sentences, S salient ones among them, L words of a sentence, T = S + 1 words of a
// summary with its end, r slots.
#include "loci/tasks/minutes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/base/wilson.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kTestTextsAtOnce = 100;
constexpr uint64_t kTestTextsSeed = 0;  // for every run; the stream is another one than that of training

// The likeliest word step by step behind `prompt` [B, P]: [B, steps].
Tensor greedy_words(TransformerLm& model, const Tensor& prompt, int64_t steps) {
  KeyValueCache cache;
  Tensor word = model.forward(prompt, &cache).select(1, prompt.size(1) - 1).argmax(1);
  std::vector<Tensor> written = {word};
  while (static_cast<int64_t>(written.size()) < steps) {
    word = model.forward(word.unsqueeze(1), &cache).select(1, 0).argmax(1);
    written.push_back(word);
  }
  return at::stack(written, 1);
}

}  // namespace

void MinutesTaskData::fields(ConfigFields& f) {
  minutes.fields(f);
  f.field("test_samples", test_samples, "texts of an evaluation, the same ones for every seed",
          {.minimum = 1, .maximum = 1 << 24});
}

void MinutesModelOptions::fields(ConfigFields& f) {
  f.choice<MinutesNetwork>("network", network, "GRUs with a memory, or a transformer that reads text and summary",
                           {{"recurrent", MinutesNetwork::recurrent}, {"transformer", MinutesNetwork::transformer}});
  f.when(network == MinutesNetwork::recurrent, "model.network is \"recurrent\"", [&] { recurrent.fields(f); });
  f.when(network == MinutesNetwork::transformer, "model.network is \"transformer\"", [&] {
    f.field("layers", layers, "of the transformer", {.minimum = 1, .maximum = 1000});
    f.field("heads", heads, "of its attention", {.minimum = 1, .maximum = 1024});
    f.field("transformer_width", transformer_width, "of its layers", {.minimum = 2, .maximum = 1 << 14});
  });
}

void MinutesPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

SlotSummariserOptions MinutesPlan::recurrent_model() const {
  SlotSummariserOptions options = model.recurrent;
  options.vocabulary = data.minutes.vocabulary();
  return options;
}

TransformerLmOptions MinutesPlan::transformer_model() const {
  TransformerLmOptions options;
  options.vocabulary = data.minutes.vocabulary();
  options.layers = model.layers;
  options.heads = model.heads;
  options.width = model.transformer_width;
  options.context = text().sentences * text().words + text().summary;
  return options;
}

void MinutesPlan::check() const {
  data.minutes.check();
  if (model.network == MinutesNetwork::recurrent) {
    recurrent_model().check();
  } else {
    TransformerLm::count_parameters(transformer_model());
  }
}

int64_t MinutesPlan::parameters() const {
  return model.network == MinutesNetwork::recurrent ? recurrent_model().parameters()
                                                    : TransformerLm::count_parameters(transformer_model()).first;
}

int64_t MinutesPlan::multiply_adds() const {
  if (model.network == MinutesNetwork::recurrent) return recurrent_model().multiply_adds(text());
  const TransformerLmOptions options = transformer_model();
  // Maps of each position, and its scores and sums over all.
  return options.context * options.layers * (12 * options.width * options.width + 2 * options.context * options.width) +
         text().summary * options.vocabulary * options.width;
}

RunSize MinutesPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool bfloat16) const {
  RunSize size = network_size(parameters(), multiply_adds(), batch);
  // The batch of the step, the one that is made for the next, and one of an evaluation.
  const int64_t texts = checked_sum("config", "texts", 2 * batch.per_micro_batch(), kTestTextsAtOnce);
  const int64_t numbers = text().sentences * text().words + text().summary + text().sentences;
  size.memory.emplace_back("data", checked_product("config", "bytes of data", 8 * texts, numbers));
  double kept = recurrent_model().kept_numbers(text());
  if (model.network == MinutesNetwork::transformer) {
    const TransformerLmOptions options = transformer_model();
    kept = static_cast<double>(options.context) * static_cast<double>(options.layers * 20 * options.width) +
           static_cast<double>(text().summary * 2 * options.vocabulary);
  }
  add_activations(size, kept * (bfloat16 ? 2 : 4), batch);
  return size;
}

std::unique_ptr<Task> MinutesPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<MinutesTask>(*this, inputs);
}

std::unique_ptr<TaskPlan> minutes_plan() {
  return std::make_unique<MinutesPlan>();
}

MinutesTask::MinutesTask(const MinutesPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      training_(plan.data.minutes, inputs.seed, "minutes.training"),
      test_(plan.data.minutes, kTestTextsSeed, "minutes.test"),
      progress_(inputs.progress),
      batches_([this](int64_t position) {
        const int64_t count = batch_.per_micro_batch();
        return batch_of(training_, position * count, count);
      }) {
  if (plan.model.network == MinutesNetwork::recurrent) {
    recurrent_ = std::make_shared<SlotSummariser>(plan.recurrent_model(), inputs.seed);
  } else {
    transformer_ = std::make_shared<TransformerLm>(plan.transformer_model(), inputs.seed);
  }
}

torch::nn::Module& MinutesTask::module() {
  if (recurrent_) return *recurrent_;
  return *transformer_;
}

std::vector<NamedParameter> MinutesTask::dense_parameters() {
  return recurrent_ ? recurrent_->dense_parameters() : transformer_->dense_parameters();
}

MinutesTask::Batch MinutesTask::batch_of(const Minutes& minutes, int64_t first, int64_t count) const {
  const TextExtents text = plan_.text();
  Batch batch = {
      at::empty({count, text.sentences, text.words}, at::kLong), {}, at::empty({count, text.sentences}, at::kBool)};
  const Tensor payloads = at::empty({count, text.summary - 1}, at::kLong);
  minutes.fill(first, count, batch.words.mutable_data_ptr<int64_t>(), payloads.mutable_data_ptr<int64_t>(),
               batch.salient.mutable_data_ptr<bool>());
  batch.summary = at::cat({payloads, at::full({count, 1}, MinutesOptions::kEnd, at::kLong)}, 1);
  return batch;
}

int64_t MinutesTask::test_batches() const {
  return (plan_.data.test_samples + kTestTextsAtOnce - 1) / kTestTextsAtOnce;
}

MinutesTask::Batch MinutesTask::test_batch(int64_t index) const {
  const int64_t first = index * kTestTextsAtOnce;
  return batch_of(test_, first, std::min(kTestTextsAtOnce, plan_.data.test_samples - first));
}

Tensor MinutesTask::loss_of(const Batch& batch, bool with_penalty) {
  if (recurrent_) {
    const SummaryLoss loss = recurrent_->loss(batch.words, batch.summary, MinutesOptions::kBegin);
    return with_penalty ? loss.total : loss.words;
  }
  const int64_t B = batch.words.size(0), read = batch.words[0].numel(), T = batch.summary.size(1);
  const Tensor begin = at::full({B, 1}, MinutesOptions::kBegin, at::kLong);
  const Tensor input = at::cat({batch.words.flatten(1), begin, batch.summary.narrow(1, 0, T - 1)}, 1);
  const Tensor target = at::cat({at::full({B, read}, -1, at::kLong), batch.summary}, 1);
  return transformer_->loss(input, target);
}

Tensor MinutesTask::loss(int64_t step, int64_t micro) {
  return loss_of(batches_.take(step * batch_.accumulation + micro), true);
}

Tensor MinutesTask::written(const Batch& batch, const SlotSummariser::Encoded& encoded) {
  const int64_t T = batch.summary.size(1);
  if (recurrent_) return recurrent_->greedy(encoded, MinutesOptions::kBegin, MinutesOptions::kEnd, T);
  const Tensor begin = at::full({batch.words.size(0), 1}, MinutesOptions::kBegin, at::kLong);
  return greedy_words(*transformer_, at::cat({batch.words.flatten(1), begin}, 1), T);
}

std::vector<Measure> MinutesTask::measures() const {
  return {{"exact", 1, false, "%", "share of the test texts whose summary is written without a fault"},
          {"token_accuracy", 1, false, "%", "share of the words of a written summary that stand where they should"},
          {"coverage", 1, false, "%", "share of the salient sentences that are what some slot looks at most"},
          {"salient_mass", 1, false, "%", "share of the slots' weight that is on salient sentences"},
          {"loss", 4, true, "nats", "what the network misses of a word of the summary, given those before it"}};
}

Evaluation MinutesTask::evaluate() {
  int64_t texts = 0, exact = 0, right = 0, words = 0, covered = 0, salient = 0;
  double mass = 0, loss = 0;
  for (int64_t index = 0; index < test_batches(); ++index) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} texts", texts));
    const Batch batch = test_batch(index);
    const int64_t B = batch.words.size(0);
    const SlotSummariser::Encoded encoded = recurrent_ ? recurrent_->encode(batch.words) : SlotSummariser::Encoded();
    const Tensor same = written(batch, encoded).eq(batch.summary);  // [B, T]
    texts += B;
    exact += same.all(1).sum().item<int64_t>();
    right += same.sum().item<int64_t>();
    words += same.numel();
    loss += loss_of(batch, false).item<double>() * static_cast<double>(B);
    if (!encoded.weight.defined()) continue;
    const Tensor looked_at = at::zeros_like(batch.salient).scatter(1, encoded.weight.argmax(2), true);  // [B, N]
    covered += looked_at.logical_and(batch.salient).sum().item<int64_t>();
    salient += batch.salient.sum().item<int64_t>();
    mass += (encoded.weight.mean(1) * batch.salient).sum().item<double>();
  }
  const auto share = [](double part, int64_t all) {
    return all > 0 ? part / static_cast<double>(all) : std::numeric_limits<double>::quiet_NaN();
  };
  const bool slots = salient > 0;
  const auto [low, high] = wilson_interval(exact, texts);
  return {{share(static_cast<double>(exact), texts), share(static_cast<double>(right), words),
           share(static_cast<double>(covered), salient), share(mass, slots ? texts : 0), share(loss, texts)},
          {{"texts", texts},
           {"exact_interval", {low, high}},
           {"parameters", plan_.parameters()},
           {"multiply_adds", plan_.multiply_adds()}}};
}

Account MinutesTask::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  account.text = fmt::format(
      "{} test texts ({}); {} parameters, {} multiply-adds a text\n"
      "exact: {:.1f} %, 95 % interval {:.1f} to {:.1f} %\n",
      details.at("texts").get<int64_t>(), plan_.data.minutes.text(), plan_.parameters(),
      format_count(static_cast<double>(plan_.multiply_adds())), 100 * evaluation.values[0],
      100 * details.at("exact_interval").at(0).get<double>(), 100 * details.at("exact_interval").at(1).get<double>());
  return account;
}

int64_t MinutesTask::infer(int64_t position) {
  const Batch batch = test_batch(position % test_batches());
  written(batch, recurrent_ ? recurrent_->encode(batch.words) : SlotSummariser::Encoded());
  return batch.words.size(0);
}

std::string MinutesTask::data_key() const {
  return "minutes: " + plan_.data.minutes.text();
}

}  // namespace loci
