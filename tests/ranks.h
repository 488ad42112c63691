// Several ranks in one process: each is a thread with a process group of its own.
#pragma once

#include <gtest/gtest.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include <atomic>
#include <exception>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "loci/distributed/collectives.h"
#include "loci/distributed/gloo_group.h"

namespace loci {

// Runs `program` on every rank and waits for all of them. Rethrows the error of the lowest rank that failed.
inline void run_ranks(int64_t size, const std::function<void(const Ranks&)>& program) {
  static std::atomic<int> groups = 0;
  const std::string prefix = "test-" + std::to_string(groups++) + "-rank-";
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      const std::string name = prefix + std::to_string(rank);
      try {
        const auto group =
            make_gloo_group(store, name, static_cast<int>(rank), static_cast<int>(size), std::chrono::seconds(20));
        program(ranks_of(name));
      } catch (...) {
        errors[static_cast<size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& error : errors) {
    if (error != nullptr) std::rethrow_exception(error);
  }
}

}  // namespace loci
