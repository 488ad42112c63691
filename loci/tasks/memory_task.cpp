#include "loci/tasks/memory_task.h"

#include <fmt/format.h>

#include "loci/train/checkpoint.h"

namespace loci {
CountedReads::CountedReads(const std::shared_ptr<ProductKeyMemory>& memory) {
  if (!memory) return;
  usage = std::make_shared<Usage>(memory->table()->rows());
  scope.emplace(*memory, usage);
}

MemoryTask::MemoryTask(const TaskInputs& inputs) : batch_(inputs.batch), rows_(inputs.rows), seed_(inputs.seed) {}

void MemoryTask::watch(std::shared_ptr<ProductKeyMemory> memory, int64_t layer) {
  memory_ = std::move(memory);
  layer_ = layer;
  std::vector<WatchedMemory> watched;
  if (memory_) watched.push_back({layer, memory_});
  watch_ = std::make_unique<MemoryWatch>(watched);
}

std::vector<std::pair<TablePtr, RowOptimizerOptions>> MemoryTask::tables() {
  if (!memory_) return {};
  return {{memory_->table(), rows_}};
}

void MemoryTask::add_usage_measures(std::vector<Measure>& measures, std::string_view what, std::string_view readers) {
  measures.push_back({"usage", 1, false, "%", fmt::format("share of the {} that the {} read", what, readers)});
  measures.push_back({"kl", 2, true, "nats", "how unevenly they read them: 0 when each carries the same weight"});
}

void MemoryTask::add_usage(Evaluation& evaluation, const Usage& usage) const {
  const UsageMetrics metrics = usage.metrics();
  evaluation.values.push_back(metrics.usage);
  evaluation.values.push_back(metrics.kl);
  evaluation.details["memories"] = {usage_facts(layer_, metrics)};
}

void load_network(const CheckpointReader& checkpoint, torch::nn::Module& network,
                  const std::shared_ptr<ProductKeyMemory>& memory) {
  std::vector<TablePtr> tables;
  if (memory) tables.push_back(memory->table());
  load_model(checkpoint, network, tables);
  network.eval();
}

}  // namespace loci
