// What is measured: one entry an operator and size.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace loci::bench {

// What bounds a case, and so which of the machine's speeds its estimate is made from.
enum class Bound { stream, gather, products };

struct Case {
  std::string name;  // of bench_names()
  std::string size;
  Bound bound;
  double bytes;       // that must be moved at least
  double operations;  // multiplications and additions
  std::function<void()> fast;
  std::function<void()> definition;
};

// The cases of one name. Tensors are made here and live as long as the case.
std::vector<Case> cases_of(const std::string& name);

// The machine: copies between large tensors, reads of random rows, matrix products in float32.
struct Machine {
  std::function<void()> copy, gather, product;
  double copy_bytes, gather_bytes, product_operations;
};
Machine machine();

}  // namespace loci::bench
