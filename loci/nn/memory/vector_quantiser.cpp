// Legend: T tokens, D width, N codes.
#include "loci/nn/memory/vector_quantiser.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

#include "loci/base/random.h"
#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kDistancesAtOnce = int64_t{1} << 21;  // 8 MiB
constexpr double kLeastCount = 1e-5;

}  // namespace

void VectorQuantiserOptions::fields(ConfigFields& f) {
  f.field("codes", codes, "codes of the book", {.minimum = 1, .maximum = int64_t{1} << 24});
  f.field("decay", decay, "of the moving averages that codes follow", {.minimum = 0, .maximum = 1});
  f.field("commitment", commitment, "weight of the distance from vectors to their codes", {.minimum = 0});
  f.field("replace_below", replace_below, "a code with fewer vectors than this share of the mean is replaced",
          {.minimum = 0, .maximum = 1});
}

VectorQuantiser::VectorQuantiser(const std::string& name, const VectorQuantiserOptions& options, int64_t width,
                                 uint64_t seed)
    : Module("VectorQuantiser"), options_(options), name_(name), seed_(seed) {
  const double deviation = 1 / std::sqrt(static_cast<double>(width));
  codes = register_buffer("codes", normal_start(seed, name + ".codes", {options.codes, width}, deviation));
  counts = register_buffer("counts", at::zeros({options.codes}));
  sums = register_buffer("sums", at::zeros({options.codes, width}));
  passes = register_buffer("passes", at::zeros({}, at::kLong));
}

Quantised VectorQuantiser::forward(const Tensor& x) {
  TORCH_CHECK(x.dim() == 2 && x.size(1) == codes.size(1) && x.is_floating_point(), name_, ": x must be [T, ",
              codes.size(1), "] of floating type, got ", x.sizes(), " ", x.scalar_type());
  replaced_ = 0;
  const Tensor vectors = x.detach().to(at::kFloat);
  const bool moves = is_training() && x.size(0) > 0;
  if (moves) replace_unused(vectors);
  const Tensor index = nearest(vectors);
  const Tensor code = codes.index_select(0, index);
  Quantised result{x + (code.to(x.scalar_type()) - x.detach()), index,
                   options_.commitment * at::mse_loss(x.to(at::kFloat), code)};
  if (moves) follow(vectors, index);
  return result;
}

// Not in bfloat16 under autocast: distances to near codes would be equal. |x - e|^2 is least where x e - |e|^2 / 2 is
// largest. argmax takes the first of equal ones.
Tensor VectorQuantiser::nearest(const Tensor& x) const {
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  const int64_t tokens = x.size(0), at_once = std::max<int64_t>(1, kDistancesAtOnce / codes.size(0));
  const Tensor offset = codes.square().sum(1).mul_(-0.5), transposed = codes.t();
  Tensor index = at::empty({tokens}, at::kLong);
  for (int64_t begin = 0; begin < tokens; begin += at_once) {
    const int64_t count = std::min(at_once, tokens - begin);
    index.narrow(0, begin, count).copy_(at::addmm(offset, x.narrow(0, begin, count), transposed).argmax(1));
  }
  return index;
}

void VectorQuantiser::follow(const Tensor& x, const Tensor& index) {
  const double d = options_.decay;
  counts.mul_(d).add_(at::bincount(index, {}, codes.size(0)), 1 - d);
  sums.mul_(d).index_add_(0, index, x, 1 - d);
  codes.copy_(sums / counts.clamp_min(kLeastCount).unsqueeze(1));
  passes.add_(1);
}

// A new code starts with the mean count, so that it is not replaced again before vectors can come to it.
void VectorQuantiser::replace_unused(const Tensor& x) {
  const double mean = counts.mean().item<double>(), start = std::max(mean, 1.0);
  const Tensor unused = counts.le(options_.replace_below * mean).nonzero().flatten();
  replaced_ = unused.numel();
  if (replaced_ == 0) return;
  const CounterRandom random(seed_, name_ + ".replace");
  const auto pass = static_cast<uint64_t>(passes.item<int64_t>()), all = static_cast<uint64_t>(codes.size(0));
  Tensor from = at::empty({replaced_}, at::kLong);
  for (int64_t i = 0; i < replaced_; ++i) {
    const auto code = static_cast<uint64_t>(unused.const_data_ptr<int64_t>()[i]);
    from.mutable_data_ptr<int64_t>()[i] =
        static_cast<int64_t>(random.below(pass * all + code, static_cast<uint64_t>(x.size(0))));
  }
  const Tensor code = x.index_select(0, from);
  codes.index_copy_(0, unused, code);
  sums.index_copy_(0, unused, code * start);
  counts.index_fill_(0, unused, start);
}

}  // namespace loci
