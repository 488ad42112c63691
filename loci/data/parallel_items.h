// Independent pieces of work on a few threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

namespace loci {

// How many threads parallel_items() runs for so many items, the caller's included.
inline int64_t item_threads(int64_t items) {
  return std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, std::max<int64_t>(1, items));
}

// Calls work(item, thread) once for each item 0 .. items-1. `thread` is below item_threads(items), two threads never
// have the same number, and the caller has 0. After an error no further item is begun. Items are begun in order, so the
// lowest item that fails is always among those that were begun: its error is the one thrown, for any number of threads.
template <class Work>
void parallel_items(int64_t items, const Work& work) {
  std::atomic<int64_t> next = 0;
  std::mutex mutex;
  int64_t failed = std::numeric_limits<int64_t>::max();
  std::exception_ptr error;
  const auto run = [&](int64_t thread) {
    for (int64_t item = next++; item < items; item = next++) {
      try {
        work(item, thread);
      } catch (...) {
        next = items;
        const std::lock_guard lock(mutex);
        if (item < failed) {
          failed = item;
          error = std::current_exception();
        }
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int64_t thread = 1; thread < item_threads(items); ++thread) threads.emplace_back(run, thread);
    run(0);
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace loci
