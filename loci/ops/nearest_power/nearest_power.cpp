#include "loci/ops/nearest_power/nearest_power.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/where.h>

#include <bit>
#include <cmath>
#include <cstdint>

#include "loci/ops/operator.h"

namespace loci {

using at::Tensor;

namespace {

// A number is its sign, its exponent, and the fraction f of 1 + f. What is added carries into the exponent where the
// fraction is at least that of sqrt(2), rounded up; then the fraction is cut off.
constexpr int64_t kFloatAdded = 0x0080'0000 - 0x0035'04f4, kFloatKept = 0xff80'0000;
constexpr int64_t kDoubleAdded = 0x0010'0000'0000'0000 - 0x0006'a09e'667f'3bcd;
constexpr uint64_t kDoubleKept = 0xfff0'0000'0000'0000;

Tensor nearest_power_definition(const Tensor& x) {
  const bool wide = x.scalar_type() == at::kDouble;
  TORCH_CHECK(wide || x.scalar_type() == at::kFloat, "nearest_power: x must be float32 or float64, got ",
              x.scalar_type());
  if (x.is_meta()) return at::empty_like(x, x.options(), at::MemoryFormat::Contiguous);
  const Tensor values = x.contiguous(), bits = values.view(wide ? at::kLong : at::kInt);
  const Tensor kept =
      (bits + (wide ? kDoubleAdded : kFloatAdded))
          .bitwise_and_(wide ? static_cast<int64_t>(kDoubleKept) : int64_t{static_cast<int32_t>(kFloatKept)});
  return at::where(values.eq(values), kept.view(x.scalar_type()), values);  // NaN is not itself
}

std::vector<Tensor> nearest_power_gradient(const BackwardPass& pass) {
  return {pass.grad[0]};
}

Tensor nearest_power_entry(const Tensor& x) {
  return once_differentiable<nearest_power_gradient>("nearest_power", {x},
                                                     [&] { return ForwardPass{{nearest_power(x)}, {}}; })[0];
}

}  // namespace

Tensor nearest_power(const Tensor& x) {
  return call_operator<"loci::nearest_power", Tensor(const Tensor&)>(x);
}

double nearest_power(double x) {
  if (std::isnan(x)) return x;
  return std::bit_cast<double>((std::bit_cast<uint64_t>(x) + static_cast<uint64_t>(kDoubleAdded)) & kDoubleKept);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "nearest_power(Tensor x) -> Tensor", nearest_power_definition, nearest_power_entry);
}

}  // namespace loci
