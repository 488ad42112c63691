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
#include <torch/library.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/nn/evaluation_scope.h"
#include "loci/table/row_store.h"
#include "loci/table/torch_errors.h"

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

void check_calibration_inputs(const Tensor& inputs, int64_t width) {
  if (inputs.dim() != 2 || inputs.size(1) != width || inputs.size(0) < 2) {
    fail(ExitCode::usage, "calibrate", fmt::format("inputs must be [T, {}] with T >= 2", width),
         c10::str(inputs.sizes()));
  }
}

// least_variance is of no use to the keys.
CalibrateOptions numbered_options(int64_t seed, int64_t number, double least_variance) {
  return {calibration_seed(static_cast<uint64_t>(seed), number), least_variance};
}

void start_query(ProductKeyMemory& memory, MlpQueryNet& net, const CalibratedMap& map) {
  net.weight[0].copy_(map.weight);
  net.bias[0].copy_(map.bias);
  if (memory.norm.gain.defined()) memory.norm.gain.fill_(1);
  if (memory.norm.bias.defined()) memory.norm.bias.zero_();
  if (memory.temperature.defined()) memory.temperature.fill_(std::sqrt(static_cast<double>(memory.half_width()) / 3));
  if (memory.norm.running_mean.defined()) {
    memory.norm.running_mean.copy_(map.mean.view_as(memory.norm.running_mean));
    memory.norm.running_variance.copy_(map.variance.view_as(memory.norm.running_variance));
  }
}

}  // namespace

// The query map whitens the inputs [T, d] and rotates them at random.
CalibratedMap calibrated_map(const Tensor& inputs, int64_t heads, int64_t half, bool statistics,
                             const std::string& table, const CalibrateOptions& options) {
  const OneThread one_thread;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Tensor x = inputs.to(at::kDouble).contiguous();
  if (!x.isfinite().all().item<bool>()) {
    fail(ExitCode::numbers, "calibrate", "inputs must be finite", "NaN or infinity");
  }
  const int64_t width = x.size(1), halves = heads * 2;
  const Whitening white = whitening_of(x, options.least_variance);
  const Tensor weights = at::empty({halves, half, width}, at::kDouble), biases = at::empty({halves, half}, at::kDouble);
  for (int64_t i = 0; i < halves; ++i) {
    const CounterRandom random(options.seed, fmt::format("calibrate.{}.map.{}", table, i));
    const Tensor draw = normal_matrix(random, width, half);
    const Tensor map = half <= width ? std::get<0>(at::linalg_qr(draw)) : draw / std::sqrt(static_cast<double>(width));
    const Tensor query = at::matmul(white.matrix, map);  // [d, w]
    weights[i].copy_(query.t());
    biases[i].copy_(-at::mv(query.t(), white.mean));
  }
  const Tensor weight = weights.view({halves * half, width}), bias = biases.view({halves * half});
  if (!statistics) return {weight, bias, {}, {}};
  const Tensor query = at::matmul(x, weight.t()) + bias;
  return {weight, bias, query.mean(0), query.var(0, /*unbiased=*/true)};
}

Tensor calibrated_keys(const Tensor& query, int64_t half, int64_t n, const std::string& table,
                       const CalibrateOptions& options) {
  const OneThread one_thread;
  const int64_t heads = query.size(1);
  Tensor keys = at::empty({heads, n, query.size(3)}, at::kDouble);
  for (int64_t h = 0; h < heads; ++h) {
    const std::string stream = fmt::format("calibrate.{}.keys.{}.{}", table, h, half);
    keys[h].copy_(draw_keys(query.select(1, h).select(1, half), n, options.seed, stream));
  }
  return keys;
}

void calibrate(ProductKeyMemory& memory, const Tensor& inputs, const CalibrateOptions& options) {
  const auto net = std::dynamic_pointer_cast<MlpQueryNet>(memory.query_net);
  if (!net || net->weight.size() != 1) {
    fail(ExitCode::usage, "calibrate", "the query net must be one linear map",
         net ? fmt::format("{} maps", net->weight.size()) : "another net");
  }
  check_calibration_inputs(inputs, memory.options().width);
  const at::NoGradGuard no_gradient;
  const OneThread one_thread;
  const EvaluationScope evaluation(memory);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const std::string& table = memory.table()->name();
  start_query(memory, *net,
              calibrated_map(inputs, memory.options().heads, memory.half_width(), memory.norm.running_mean.defined(),
                             table, options));
  const Tensor query = memory.query(inputs.to(net->weight[0].scalar_type()));  // [T, H, 2, w]
  memory.keys1.copy_(calibrated_keys(query, 0, memory.sub_keys1(), table, options));
  memory.keys2.copy_(calibrated_keys(query, 1, memory.sub_keys2(), table, options));
  if (!options.keep_values) memory.table()->store().initialise_zero();
}

uint64_t calibration_seed(uint64_t seed, int64_t number) {
  return CounterRandom(seed, "calibrate").bits(static_cast<uint64_t>(number));
}

std::vector<Tensor> calibrated_parameters(const ProductKeyMemory& memory) {
  std::vector<Tensor> result = memory.query_net->parameters();
  for (const Tensor& parameter : {memory.norm.gain, memory.norm.bias, memory.temperature, memory.keys1, memory.keys2}) {
    if (parameter.defined()) result.push_back(parameter);
  }
  return result;
}

// For memories in Python, which start with the same numbers.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def(
      "calibrated_map(Tensor inputs, int heads, int half_width, bool statistics, float least_variance, str table, "
      "int seed, int number) -> (Tensor weight, Tensor bias, Tensor? mean, Tensor? variance)",
      [](const Tensor& inputs, int64_t heads, int64_t half_width, bool statistics, double least_variance,
         const std::string& table, int64_t seed, int64_t number) {
        TORCH_CHECK_VALUE(inputs.is_cpu(), "calibrate: inputs must be on cpu, got ", inputs.device());
        TORCH_CHECK_VALUE(heads >= 1 && half_width >= 1, "calibrate: heads and half_width must be at least 1, got ",
                          heads, " and ", half_width);
        const CalibratedMap map = with_torch_errors([&] {
          check_calibration_inputs(inputs, inputs.dim() > 0 ? inputs.size(-1) : 0);
          return calibrated_map(inputs, heads, half_width, statistics, table,
                                numbered_options(seed, number, least_variance));
        });
        const auto optional = [](const Tensor& x) { return x.defined() ? std::optional(x) : std::nullopt; };
        return std::make_tuple(map.weight, map.bias, optional(map.mean), optional(map.variance));
      });
  m.def("calibrated_keys(Tensor query, int half, int n, str table, int seed, int number) -> Tensor",
        [](const Tensor& query, int64_t half, int64_t n, const std::string& table, int64_t seed, int64_t number) {
          TORCH_CHECK_VALUE(query.is_cpu(), "calibrated_keys: query must be on cpu, got ", query.device());
          TORCH_CHECK_VALUE((half == 0 || half == 1) && n >= 1,
                            "calibrated_keys: half must be 0 or 1 and n at least 1, got ", half, " and ", n);
          TORCH_CHECK_VALUE(query.dim() == 4 && query.size(0) >= 1 && query.size(2) == 2,
                            "calibrated_keys: query must be [T, H, 2, w] with T >= 1, got ", query.sizes());
          return calibrated_keys(query, half, n, table, numbered_options(seed, number, 0));
        });
}

}  // namespace loci
