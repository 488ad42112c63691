// Legend: B batch, C classes, d width of a vector, n sub-keys of a half, h hidden width.
#include "loci/tasks/random_labels.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/base/stop_signal.h"
#include "loci/nn/memory/memory_slot.h"

namespace loci {
namespace {

constexpr int64_t kClasses = 64, kVectorWidth = 64;
constexpr int64_t kEvaluated = 512;  // vectors at once

// The memory as the memory slot of a model, so that it is counted and made as in other models.
MemoryOptions memory_slot_of(const RandomLabelsModelOptions& model) {
  MemoryOptions slot;
  slot.rows = model.rows;
  slot.layer.width = kVectorWidth;
  slot.layer.heads = 1;
  slot.layer.top_k = model.top_k;
  slot.layer.key_width = kVectorWidth;
  slot.layer.query_norm = model.query_norm;
  return slot;
}

int64_t dense_count(const RandomLabelsModelOptions& model) {
  const int64_t last = (kVectorWidth + 1) * kClasses;
  if (model.kind == RandomLabelsModelKind::memory)
    return count_memory(memory_slot_of(model), kVectorWidth).dense + last;
  return (kVectorWidth + 1) * model.hidden + (model.hidden + 1) * kClasses;
}

// Of one vector, without the search among the pairs of the best sub-keys.
int64_t multiply_adds(const RandomLabelsModelOptions& model) {
  if (model.kind == RandomLabelsModelKind::mlp) return model.hidden * (kVectorWidth + kClasses);
  const auto [n1, n2] = sub_keys_for(model.rows);
  return kVectorWidth * kVectorWidth + (n1 + n2) * kVectorWidth / 2 + model.top_k * kVectorWidth +
         kVectorWidth * kClasses;
}

}  // namespace

void RandomLabelsData::fields(ConfigFields& f) {
  f.field("vectors", vectors, "how many vectors are learned by heart", {.minimum = 1, .maximum = int64_t{1} << 24});
}

void RandomLabelsModelOptions::fields(ConfigFields& f) {
  using Kind = RandomLabelsModelKind;
  f.choice<Kind>("kind", kind, "a memory between two linear maps, or a network of one hidden layer",
                 {{"memory", Kind::memory}, {"mlp", Kind::mlp}});
  f.when(kind == Kind::memory, "model.kind is \"memory\"", [&] {
    f.field("rows", rows, "rows of the table", {.minimum = 1, .maximum = int64_t{1} << 26});
    f.field("top_k", top_k, "rows that a vector reads", {.minimum = 1, .maximum = 1 << 20});
    f.choice("query_norm", query_norm, "normalisation of the queries", query_norm_words());
    f.choice<RandomLabelsStart>("start", start, "as memories start, or with zeros for three quarters of the sub-keys",
                                {{"normal", RandomLabelsStart::normal}, {"dead", RandomLabelsStart::dead}});
  });
  f.when(kind == Kind::mlp, "model.kind is \"mlp\"",
         [&] { f.field("hidden", hidden, "width of the hidden layer", {.minimum = 1, .maximum = 1 << 20}); });
  f.optional_section("reinitialise", has_reinitialise, reinitialise);
}

void RandomLabelsPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
}

void RandomLabelsPlan::check() const {
  if (model.kind == RandomLabelsModelKind::memory && model.top_k > model.rows) {
    fail(ExitCode::usage, "config", fmt::format("model.top_k must be at most model.rows = {}", model.rows),
         fmt::to_string(model.top_k));
  }
  if (!model.has_reinitialise) return;
  if (model.kind == RandomLabelsModelKind::mlp) {
    fail(ExitCode::usage, "config", "model.kind must be \"memory\" with [model.reinitialise]", "\"mlp\"");
  }
  model.reinitialise.check("model.reinitialise");
}

RunSize RandomLabelsPlan::size(const BatchShape& batch, const RowOptimizerOptions& rows, bool) const {
  RunSize size;
  size.parameters_dense = dense_count(model);
  size.units_per_step = batch.batch;
  const int64_t numbers = checked_product("config", "bytes of the vectors", data.vectors, kVectorWidth);
  int64_t activations = 4 * kVectorWidth + 8 * kClasses;  // bytes of a vector
  size.memory = {{"data", 4 * numbers + 8 * data.vectors},
                 {"dense parameters", 4 * size.parameters_dense},
                 {"dense gradients", 4 * size.parameters_dense}};
  if (model.kind == RandomLabelsModelKind::memory) {
    size.parameters_table = model.rows * kVectorWidth;
    size.counter_bytes = model.rows * static_cast<int64_t>(sizeof(RowUsage));
    size.memory.emplace_back("tables", 4 * size.parameters_table);
    size.memory.emplace_back("row optimiser state",
                             RowOptimizer::state_bytes(model.rows, kVectorWidth, rows, at::kFloat));
    size.memory.emplace_back("counters of rows", 2 * size.counter_bytes);
    if (model.has_reinitialise && model.reinitialise.keys == KeyRule::query) {
      size.memory.emplace_back("sample of queries", QueryReservoir::bytes(1, kVectorWidth / 2));
    }
    const auto [n1, n2] = sub_keys_for(model.rows);
    activations += 16 * kVectorWidth + 8 * (n1 + n2) + 56 * model.top_k;
  } else {
    activations += 8 * model.hidden;
  }
  const int64_t at_once = std::max(batch.per_micro_batch(), kEvaluated);
  size.memory.emplace_back("activations", checked_product("config", "bytes of activations", at_once, activations));
  return size;
}

std::unique_ptr<Task> RandomLabelsPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<RandomLabels>(*this, inputs);
}

std::unique_ptr<TaskPlan> random_labels_plan() {
  return std::make_unique<RandomLabelsPlan>();
}

class RandomLabels::Model : public torch::nn::Module {
 public:
  Model(const RandomLabelsModelOptions& options, uint64_t seed, const TableMaker& make) : Module("RandomLabels") {
    std::vector<int64_t> widths = {kVectorWidth, kClasses};
    if (options.kind == RandomLabelsModelKind::mlp) {
      widths = {kVectorWidth, options.hidden, kClasses};
    } else {
      std::vector<TablePtr> tables;
      memory = std::dynamic_pointer_cast<ProductKeyMemory>(
          make_memory(memory_slot_of(options), "", kVectorWidth, seed, make, tables));
      register_module("memory", memory);
      if (options.start == RandomLabelsStart::dead) kill_sub_keys();
    }
    last = register_module("last", std::make_shared<MlpQueryNet>("last", widths, true, seed));
  }
  at::Tensor forward(const at::Tensor& x) { return last->forward(memory ? memory->forward(x) : x); }  // [B, C]

  std::shared_ptr<ProductKeyMemory> memory;  // of kind memory
  std::shared_ptr<MlpQueryNet> last;         // or the whole network

 private:
  void kill_sub_keys() const {
    const at::NoGradGuard guard;
    for (const at::Tensor& keys : {memory->keys1, memory->keys2}) keys.slice(1, keys.size(1) / 4).zero_();
  }
};

RandomLabels::RandomLabels(const RandomLabelsPlan& plan, const TaskInputs& inputs)
    : MemoryTask(inputs),
      plan_(plan),
      model_(std::make_shared<Model>(plan.model, inputs.seed, inputs.tables)),
      vectors_(at::empty({plan.data.vectors, kVectorWidth}, at::kFloat)),
      labels_(at::empty({plan.data.vectors}, at::kLong)) {
  watch(model_->memory);
  if (plan.model.has_reinitialise) {
    reinitialise(plan.model.reinitialise, memory_slot_of(plan.model).row_deviation(kVectorWidth));
  }

  const CounterRandom mean(seed(), "random_labels.mean"), noise(seed(), "random_labels.noise"),
      label(seed(), "random_labels.label");
  auto* x = vectors_.mutable_data_ptr<float>();
  for (int64_t i = 0; i < plan.data.vectors; ++i) {
    for (int64_t j = 0; j < kVectorWidth; ++j) {
      const double centre = 4 * (0.5 + mean.uniform(static_cast<uint64_t>(j)));
      const double z = noise.normal(static_cast<uint64_t>(i * kVectorWidth + j));
      *x++ = static_cast<float>(std::max(0.0, centre + z));
    }
    labels_.mutable_data_ptr<int64_t>()[i] = static_cast<int64_t>(label.below(static_cast<uint64_t>(i), kClasses));
  }
}

torch::nn::Module& RandomLabels::module() {
  return *model_;
}

std::vector<NamedParameter> RandomLabels::dense_parameters() {
  std::vector<NamedParameter> result;
  for (const auto& parameter : model_->named_parameters()) {
    result.push_back({.name = parameter.key(), .value = parameter.value(), .decay = false});
  }
  return result;
}

// Vectors are drawn with replacement.
at::Tensor RandomLabels::loss(int64_t step, int64_t micro) {
  const int64_t count = batch_shape().per_micro_batch();
  const CounterRandom random(seed(), "random_labels.batch");
  at::Tensor index = at::empty({count}, at::kLong);
  const int64_t first = step * batch_shape().batch + micro * count;
  for (int64_t i = 0; i < count; ++i) {
    index.mutable_data_ptr<int64_t>()[i] =
        static_cast<int64_t>(random.below(static_cast<uint64_t>(first + i), static_cast<uint64_t>(plan_.data.vectors)));
  }
  const auto observed = observe();
  return at::cross_entropy_loss(model_->forward(vectors_.index_select(0, index)), labels_.index_select(0, index));
}

std::vector<Measure> RandomLabels::measures() const {
  std::vector<Measure> measures = {
      {"accuracy", 1, false, "%", "share of the vectors whose label is known, in evaluation mode"}};
  if (memory()) add_usage_measures(measures, "rows", "vectors");
  return measures;
}

Evaluation RandomLabels::evaluate() {
  const CountedReads reads(memory());
  int64_t right = 0;
  for (int64_t begin = 0; begin < plan_.data.vectors; begin += kEvaluated) {
    StopSignal::check("stopped while the model was evaluated");
    const int64_t count = std::min(kEvaluated, plan_.data.vectors - begin);
    const at::Tensor found = model_->forward(vectors_.narrow(0, begin, count)).argmax(1);
    right += found.eq(labels_.narrow(0, begin, count)).sum().item<int64_t>();
  }
  Evaluation result{{static_cast<double>(right) / static_cast<double>(plan_.data.vectors)},
                    {{"vectors", plan_.data.vectors}, {"multiply_adds", multiply_adds(plan_.model)}}};
  if (reads.usage) add_usage(result, *reads.usage);
  return result;
}

int64_t RandomLabels::infer(int64_t position) {
  const int64_t count = std::min(kEvaluated, plan_.data.vectors);
  const int64_t parts = plan_.data.vectors / count;
  model_->forward(vectors_.narrow(0, position % parts * count, count));
  return count;
}

std::string RandomLabels::data_key() const {
  return fmt::format("{} vectors of seed {}", plan_.data.vectors, seed());
}

}  // namespace loci
