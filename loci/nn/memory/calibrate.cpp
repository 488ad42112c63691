// Legend: T tokens, d width, H heads, w half a key's width, n sub-keys.
#include "loci/nn/memory/calibrate.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mv.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/nn/evaluation_scope.h"
#include "loci/table/row_store.h"

namespace loci {
namespace {

using at::Tensor;

// Length of the noise that tells apart keys drawn from the same token, which have length 1.
constexpr double kNoise = 0.1;

// Matrix products and decompositions may give other bits with other thread counts. This runs once, in under a second.
class OneThread {
 public:
  OneThread() : before_(at::get_num_threads()) { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

Tensor normal_matrix(const CounterRandom& random, int64_t rows, int64_t columns) {
  Tensor result = at::empty({rows, columns}, at::kDouble);
  auto* out = result.mutable_data_ptr<double>();
  for (int64_t i = 0; i < result.numel(); ++i) out[i] = random.normal(static_cast<uint64_t>(i));
  return result;
}

struct Whitening {
  Tensor mean;    // [d]
  Tensor matrix;  // P [d, d]
};

Whitening whitening_of(const Tensor& x, double least_variance) {
  const Tensor mean = x.mean(0);
  const Tensor centred = x - mean;
  const Tensor covariance = at::matmul(centred.t(), centred) / static_cast<double>(x.size(0));
  const auto [value, vector] = at::linalg_eigh(covariance);
  const Tensor least = (value.max() * least_variance).clamp_min(1e-30);  // all inputs alike: no division by 0
  return {mean, vector * value.maximum(least).rsqrt()};
}

// n keys [n, w] of length 1 from the half-queries [T, w]: without replacement while they last, then with noise.
Tensor draw_keys(const Tensor& half_query, int64_t n, uint64_t seed, const std::string& stream) {
  const int64_t tokens = half_query.size(0), width = half_query.size(1);
  const CounterPermutation order(static_cast<uint64_t>(tokens), seed, stream_of(stream));
  Tensor choice = at::empty({n}, at::kLong);
  for (int64_t i = 0; i < n; ++i) {
    choice.mutable_data_ptr<int64_t>()[i] = static_cast<int64_t>(order(static_cast<uint64_t>(i % tokens)));
  }
  Tensor keys = unit_vectors(half_query.index_select(0, choice).to(at::kDouble));
  if (n > tokens) {
    const CounterRandom random(seed, stream + ".noise");
    const Tensor noise = normal_matrix(random, n - tokens, width) * (kNoise / std::sqrt(static_cast<double>(width)));
    keys.narrow(0, tokens, n - tokens).add_(noise);
    keys = unit_vectors(keys);
  }
  return keys;
}

// The query map whitens the inputs x [T, d] and rotates them at random. Returns it, [H * 2w, d] and [H * 2w].
std::pair<Tensor, Tensor> whitening_map(const ProductKeyMemory& memory, const Tensor& x,
                                        const CalibrateOptions& options) {
  const int64_t width = memory.options().width, half = memory.half_width(), halves = memory.options().heads * 2;
  const Whitening white = whitening_of(x, options.least_variance);
  const Tensor weight = at::empty({halves, half, width}, at::kDouble), bias = at::empty({halves, half}, at::kDouble);
  for (int64_t i = 0; i < halves; ++i) {
    const CounterRandom random(options.seed, fmt::format("calibrate.{}.map.{}", memory.table()->name(), i));
    const Tensor draw = normal_matrix(random, width, half);
    const Tensor map = half <= width ? std::get<0>(at::linalg_qr(draw)) : draw / std::sqrt(static_cast<double>(width));
    const Tensor query = at::matmul(white.matrix, map);  // [d, w]
    weight[i].copy_(query.t());
    bias[i].copy_(-at::mv(query.t(), white.mean));
  }
  return {weight.view({halves * half, width}), bias.view({halves * half})};
}

void start_query(ProductKeyMemory& memory, MlpQueryNet& net, const Tensor& x, const CalibrateOptions& options) {
  const auto [weight, bias] = whitening_map(memory, x, options);
  net.weight[0].copy_(weight);
  net.bias[0].copy_(bias);
  if (memory.norm.gain.defined()) memory.norm.gain.fill_(1);
  if (memory.norm.bias.defined()) memory.norm.bias.zero_();
  if (memory.temperature.defined()) memory.temperature.fill_(std::sqrt(static_cast<double>(memory.half_width()) / 3));
  if (memory.norm.running_mean.defined()) {
    const Tensor query = at::matmul(x, weight.t()) + bias;
    memory.norm.running_mean.copy_(query.mean(0).view_as(memory.norm.running_mean));
    memory.norm.running_variance.copy_(query.var(0, /*unbiased=*/true).view_as(memory.norm.running_variance));
  }
}

}  // namespace

void calibrate(ProductKeyMemory& memory, const Tensor& inputs, const CalibrateOptions& options) {
  const auto refuse = [](const std::string& expected, const std::string& got) {
    fail(ExitCode::usage, "calibrate", expected, got);
  };
  const auto net = std::dynamic_pointer_cast<MlpQueryNet>(memory.query_net);
  if (!net || net->weight.size() != 1) {
    refuse("the query net must be one linear map", net ? fmt::format("{} maps", net->weight.size()) : "another net");
  }
  const int64_t width = memory.options().width;
  if (inputs.dim() != 2 || inputs.size(1) != width || inputs.size(0) < 2) {
    refuse(fmt::format("inputs must be [T, {}] with T >= 2", width), c10::str(inputs.sizes()));
  }
  const at::NoGradGuard no_gradient;
  const OneThread one_thread;
  const EvaluationScope evaluation(memory);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Tensor x = inputs.to(at::kDouble).contiguous();
  if (!x.isfinite().all().item<bool>()) {
    fail(ExitCode::numbers, "calibrate", "inputs must be finite", "NaN or infinity");
  }
  start_query(memory, *net, x, options);

  const Tensor query = memory.query(inputs.to(net->weight[0].scalar_type()));  // [T, H, 2, w]
  for (int64_t h = 0; h < memory.options().heads; ++h) {
    for (int64_t p = 0; p < 2; ++p) {
      Tensor keys = (p == 0 ? memory.keys1 : memory.keys2)[h];  // [n, w]
      const std::string stream = fmt::format("calibrate.{}.keys.{}.{}", memory.table()->name(), h, p);
      keys.copy_(draw_keys(query.select(1, h).select(1, p), keys.size(0), options.seed, stream));
    }
  }
  if (!options.keep_values) memory.table()->store().initialise_zero();
}

std::vector<Tensor> calibrated_parameters(const ProductKeyMemory& memory) {
  std::vector<Tensor> result = memory.query_net->parameters();
  for (const Tensor& parameter : {memory.norm.gain, memory.norm.bias, memory.temperature, memory.keys1, memory.keys2}) {
    if (parameter.defined()) result.push_back(parameter);
  }
  return result;
}

}  // namespace loci
