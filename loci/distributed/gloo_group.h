// The process groups of C++ programs, made with torch's gloo: one source file, for it depends on the layout of classes
// of torch whose headers are not all there.
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <memory>
#include <string>

namespace loci {

// Makes a group of `size` processes that share `store`, and registers it under `name`, as long as the result lives. A
// call that waits longer than `timeout` for the others fails. Throws c10::Error when the others do not come.
std::shared_ptr<void> make_gloo_group(const c10::intrusive_ptr<c10d::Store>& store, const std::string& name, int rank,
                                      int size, std::chrono::milliseconds timeout);

}  // namespace loci
