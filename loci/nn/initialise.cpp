#include "loci/nn/initialise.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <string>

#include "loci/base/random.h"

namespace loci {
namespace {

template <class Draw>
at::Tensor fill(at::IntArrayRef sizes, const Draw& draw) {
  at::Tensor result = at::empty(sizes, at::kFloat);
  float* out = result.mutable_data_ptr<float>();
  at::parallel_for(0, result.numel(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = static_cast<float>(draw(static_cast<uint64_t>(i)));
  });
  return result;
}

}  // namespace

at::Tensor normal_start(uint64_t seed, std::string_view name, at::IntArrayRef sizes, double std) {
  const CounterRandom random(seed, name);
  return fill(sizes, [&](uint64_t i) { return std * random.normal(i); });
}

at::Tensor uniform_start(uint64_t seed, std::string_view name, at::IntArrayRef sizes, double bound) {
  const CounterRandom random(seed, name);
  return fill(sizes, [&](uint64_t i) { return bound * (2 * random.uniform(i) - 1); });
}

// For modules in Python, which start with the same numbers.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def("normal_start(int seed, str name, int[] sizes, float std) -> Tensor",
        [](int64_t seed, const std::string& name, at::IntArrayRef sizes, double std) {
          return normal_start(static_cast<uint64_t>(seed), name, sizes, std);
        });
  m.def("uniform_start(int seed, str name, int[] sizes, float bound) -> Tensor",
        [](int64_t seed, const std::string& name, at::IntArrayRef sizes, double bound) {
          return uniform_start(static_cast<uint64_t>(seed), name, sizes, bound);
        });
}

}  // namespace loci
