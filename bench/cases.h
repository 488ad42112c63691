// What is measured: one entry an operator and size.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/timing.h"

namespace loci::bench {

struct Case {
  std::string name;  // of operator_names()
  std::string size;
  Bound bound;
  double bytes;       // that must be moved at least
  double operations;  // multiplications and additions
  std::function<void()> fast;
  // Of binary: the float32 product; reels: stored values and a gradient of all scores; bases: a stored basis.
  std::function<void()> definition;
};

// The operators that have cases: bench_names() without what bench.cpp measures whole.
std::vector<std::string> operator_names();

// The cases of one operator. Tensors are made here and live as long as the case.
std::vector<Case> cases_of(const std::string& name);

}  // namespace loci::bench
