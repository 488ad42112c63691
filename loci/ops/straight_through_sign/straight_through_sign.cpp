#include "loci/ops/straight_through_sign/straight_through_sign.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "loci/base/random.h"
#include "loci/ops/operator.h"

namespace loci {

using at::Tensor;

namespace {

constexpr int64_t kSampleGrain = 4096;  // numbers worth a thread

// +1 where `positive` holds, else -1.
Tensor signs_where(const Tensor& positive, const Tensor& like) {
  return positive.to(like.scalar_type()).mul_(2).sub_(1);
}

void check_floating(const char* who, const Tensor& x) {
  TORCH_CHECK(x.is_floating_point(), who, ": x must be of a floating type, got ", x.scalar_type());
}

Tensor straight_through_sign_definition(const Tensor& x, bool /*whole*/) {
  check_floating("straight_through_sign", x);
  return signs_where(x.ge(0), x);
}

// The numbers u at positions first .. of the counter, in the sizes of x, on the CPU.
Tensor uniform_numbers(const Tensor& x, const Tensor& key, const Tensor& first) {
  const Tensor numbers = key.cpu().contiguous(), begins = first.cpu();
  const int64_t* const halves = numbers.const_data_ptr<int64_t>();
  const CounterRandom random(static_cast<uint64_t>(halves[0]), static_cast<uint64_t>(halves[1]));
  const auto start = static_cast<uint64_t>(*begins.const_data_ptr<int64_t>());
  const Tensor u = at::empty(x.sizes(), at::kDouble);
  double* const to = u.mutable_data_ptr<double>();
  at::parallel_for(0, u.numel(), kSampleGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = random.uniform(start + static_cast<uint64_t>(i));
  });
  return u;
}

Tensor sampled_sign_definition(const Tensor& x, const Tensor& key, const Tensor& first) {
  check_floating("sampled_sign", x);
  TORCH_CHECK(key.scalar_type() == at::kLong && key.dim() == 1 && key.sym_size(0) == 2 &&
                  first.scalar_type() == at::kLong && first.dim() == 1 && first.sym_size(0) == 1,
              "sampled_sign: key must be [2] and first [1] of Long, got ", key.sym_sizes(), " of ", key.scalar_type(),
              " and ", first.sym_sizes(), " of ", first.scalar_type());
  if (x.is_meta()) return at::empty_like(x, x.options(), at::MemoryFormat::Contiguous);
  const Tensor u = uniform_numbers(x, key, first).to(x.device());
  return signs_where(u.lt((x.to(at::kDouble).contiguous() + 1).div_(2).clamp_(0, 1)), x);
}

Tensor call_straight_through_sign(const Tensor& x, bool whole) {
  return call_operator<"loci::straight_through_sign", decltype(call_straight_through_sign)>(x, whole);
}

// Saved: x, or nothing where the gradient is whole.
std::vector<Tensor> sign_gradient(const BackwardPass& pass) {
  if (pass.saved.empty()) return {pass.grad[0]};
  return {pass.grad[0] * pass.saved[0].abs().le(1)};
}

Tensor straight_through_sign_entry(const Tensor& x, bool whole) {
  return once_differentiable<sign_gradient>("straight_through_sign", {x}, [&] {
    return ForwardPass{{call_straight_through_sign(x, whole)}, whole ? std::vector<Tensor>{} : std::vector<Tensor>{x}};
  })[0];
}

std::vector<Tensor> sampled_sign_gradient(const BackwardPass& pass) {
  return {pass.grad[0] * pass.saved[0].abs().le(1), Tensor(), Tensor()};
}

Tensor sampled_sign_entry(const Tensor& x, const Tensor& key, const Tensor& first) {
  return once_differentiable<sampled_sign_gradient>("sampled_sign", {x, key, first},
                                                    [&] { return ForwardPass{{sampled_sign(x, key, first)}, {x}}; })[0];
}

}  // namespace

Tensor straight_through_sign(const Tensor& x, SignGradient gradient) {
  return call_straight_through_sign(x, gradient == SignGradient::whole);
}

Tensor sampled_sign(const Tensor& x, const Tensor& key, const Tensor& first) {
  return call_operator<"loci::sampled_sign", decltype(sampled_sign)>(x, key, first);
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  define_operator(m, "straight_through_sign(Tensor x, bool whole=False) -> Tensor", straight_through_sign_definition,
                  straight_through_sign_entry);
  define_operator(m, "sampled_sign(Tensor x, Tensor key, Tensor first) -> Tensor", sampled_sign_definition,
                  sampled_sign_entry);
}

}  // namespace loci
