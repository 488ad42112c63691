// Legend: T tokens of this rank, C features, P ranks.
#include "loci/nn/batch_norm_over_ranks.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <tuple>
#include <vector>

#include "loci/ops/batch_norm/batch_norm.h"
#include "loci/ops/operator.h"

namespace loci {
namespace {

using at::Tensor;

// [1 + 2 C] float64: T, means, sums of squared differences.
Tensor moments_here(const Tensor& x) {
  const int64_t tokens = x.size(0), features = x.size(1);
  Tensor result = at::zeros({1 + 2 * features}, x.options().dtype(at::kDouble));
  result.narrow(0, 0, 1).fill_(tokens);
  const Tensor mean = result.narrow(0, 1, features), squares = result.narrow(0, 1 + features, features);
  if (tokens == 1) mean.copy_(x.select(0, 0));
  if (tokens < 2) return result;
  // The operator's sums have the same bits for any number of threads. Without epsilon its scale is variance^-1/2.
  const auto options = x.options().dtype(exact_type_of(x));
  const Tensor one = at::ones({features}, options), zero = at::zeros({features}, options);
  const Tensor statistics = std::get<1>(
      batch_norm_with_statistics(x, one, zero, zero.clone(), one.clone(), /*training=*/true, /*momentum=*/1, 0));
  mean.copy_(statistics.select(0, 0));
  squares.copy_(statistics.select(0, 1).square().reciprocal().mul_(static_cast<double>(tokens)));
  return result;
}

// all [P, 1 + 2 C]
RankMoments merged_moments(const Tensor& all, int64_t features) {
  const Tensor counts = all.select(1, 0).cpu().contiguous();
  RankMoments result = {0, at::zeros({features}, all.options()), at::zeros({features}, all.options())};
  for (int64_t p = 0; p < all.size(0); ++p) {
    const auto count = static_cast<int64_t>(counts.const_data_ptr<double>()[p]);
    if (count == 0) continue;
    const auto before = static_cast<double>(result.tokens), n = static_cast<double>(count);
    const Tensor of_rank = all.select(0, p);
    const Tensor distance = of_rank.narrow(0, 1, features) - result.mean;
    result.tokens += count;
    result.mean.add_(distance, n / (before + n));
    result.squares.add_(of_rank.narrow(0, 1 + features, features));
    result.squares.add_(distance.square(), before * n / (before + n));
  }
  return result;
}

// Two sums of each feature over the tokens of all ranks. here [2, C] -> [2, C] float64, of the same bits on all ranks.
Tensor sums_over_ranks(const Tensor& here, const Ranks& ranks) {
  const Tensor all = all_gather(ranks, here.to(at::kDouble));  // [P, 2, C]
  Tensor sum = all.select(0, 0).clone();
  for (int64_t p = 1; p < ranks.size; ++p) sum.add_(all.select(0, p));
  return sum;
}

// With n = (x - mean) * scale: dx = gain * scale * (dy - average(dy) - n * average(dy * n)), averages over all ranks.
std::vector<Tensor> gradient_over_ranks(const BackwardPass& pass) {
  const Tensor &x = pass.saved[0], &gain = pass.saved[1], &statistics = pass.saved[2];
  const auto tokens = static_cast<double>(pass.constants[0].toInt());
  const Ranks ranks = {pass.constants[1].toStringRef(), pass.constants[2].toInt(), pass.constants[3].toInt()};
  auto [dx, dgain, dbias] = batch_norm_backward(pass.grad[0], x, gain, statistics, /*of_batch=*/false);
  if (pass.needed[0]) {
    const auto type = x.scalar_type();
    const Tensor sum = sums_over_ranks(at::stack({dbias, dgain}), ranks);
    const Tensor scale = statistics.select(0, 1), share = gain.to(at::kDouble) * scale / tokens;  // [C]
    const Tensor shift = share * sum.select(0, 0), slope = share * scale * sum.select(0, 1);
    dx.sub_((x - statistics.select(0, 0).to(type)).mul_(slope.to(type)).add_(shift.to(type)));
  }
  return {dx, dgain, dbias};
}

}  // namespace

RankMoments moments_over_ranks(const Tensor& x, const Ranks& ranks) {
  const at::NoGradGuard constant;
  const int64_t features = c10::multiply_integers(x.sizes().slice(1));
  return merged_moments(all_gather(ranks, moments_here(x.detach().reshape({x.size(0), features}))), features);
}

void move_running(const NormTensors& tensors, const RankMoments& moments) {
  const at::NoGradGuard constant;
  const auto move = [](const Tensor& running, const Tensor& batch) {
    running.mul_(1 - kNormMomentum).add_(batch.view_as(running).to(running.scalar_type()), kNormMomentum);
  };
  move(tensors.running_mean, moments.mean);
  move(tensors.running_variance, moments.squares / (static_cast<double>(moments.tokens) - 1));
}

Tensor batch_normalised_over_ranks(const Tensor& x, const NormTensors& tensors, const RankMoments& moments,
                                   const Ranks& ranks) {
  if (moments.tokens < 2) return batch_normalised(x, tensors, /*training=*/false);
  const auto type = exact_type_of(x);
  const auto features = [&](const Tensor& tensor) { return tensor.to(type).view(-1); };
  const Tensor wide = x.to(type).reshape({x.size(0), moments.mean.numel()});
  const Tensor gain = features(tensors.gain), bias = features(tensors.bias);
  const Tensor variance = moments.squares / static_cast<double>(moments.tokens);
  const Tensor y = once_differentiable<gradient_over_ranks>("batch_norm over ranks", {wide, gain, bias}, [&] {
    const Tensor statistics = at::stack({moments.mean, at::rsqrt(variance + kNormEpsilon)});
    return ForwardPass{
        {batch_norm(wide, gain, bias, moments.mean.to(type), variance.to(type), /*training=*/false, 0, kNormEpsilon)},
        {wide, gain, statistics},
        {moments.tokens, ranks.group, ranks.rank, ranks.size}};
  })[0];
  move_running(tensors, moments);
  return y.view(x.sizes());
}

}  // namespace loci
