#include "loci/nn/memory/table_layer.h"

#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <utility>

#include "loci/nn/memory/table_archive.h"

namespace loci {

void TableLayer::add_observer(std::shared_ptr<ReadObserver> observer) {
  observers_.push_back(std::move(observer));
}

void TableLayer::remove_observer(const ReadObserver* observer) {
  const auto found =
      std::find_if(observers_.begin(), observers_.end(), [&](const auto& o) { return o.get() == observer; });
  if (found != observers_.end()) observers_.erase(found);
}

void TableLayer::tell_observers(const MemoryReads& reads) const {
  // Within a backward pass the forward pass runs again, for activation checkpointing: its reads were told before.
  if (observers_.empty() || torch::autograd::get_current_graph_task_id() != -1) return;
  const MemoryReads told = {reads.output.detach(), reads.score.detach(),
                            reads.index,           reads.weight.detach(),
                            reads.address,         reads.query.defined() ? reads.query.detach() : at::Tensor()};
  for (const auto& observer : observers_) observer->reads(told);
}

void TableLayer::save(torch::serialize::OutputArchive& archive) const {
  torch::nn::Module::save(archive);
  write_tables(tables(), archive);
}

void TableLayer::load(torch::serialize::InputArchive& archive) {
  torch::nn::Module::load(archive);
  read_tables(archive, tables());
}

ObserverScope::ObserverScope(TableLayer& layer, std::shared_ptr<ReadObserver> observer)
    : layer_(layer), observer_(observer.get()) {
  layer_.add_observer(std::move(observer));
}

ObserverScope::~ObserverScope() {
  layer_.remove_observer(observer_);
}

}  // namespace loci
