#define USE_C10D_GLOO
#include "loci/distributed/gloo_group.h"

#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <utility>

namespace loci {

std::shared_ptr<void> make_gloo_group(const c10::intrusive_ptr<c10d::Store>& store, const std::string& name, int rank,
                                      int size, std::chrono::milliseconds timeout) {
  using c10d::ProcessGroup;
  const auto options = c10d::ProcessGroupGloo::Options::create_default(timeout);
  const auto gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
  auto group = c10::make_intrusive<ProcessGroup>(store, rank, size);
  group->setDefaultBackend(ProcessGroup::BackendType::GLOO);
  group->setBackend(c10::DeviceType::CPU, ProcessGroup::BackendType::GLOO, c10::intrusive_ptr<c10d::Backend>(gloo));
  group->setGroupName(name);
  c10d::register_process_group(name, group);  // keeps no reference
  return {nullptr, [group = std::move(group), name](void*) { c10d::unregister_process_group(name); }};
}

}  // namespace loci
