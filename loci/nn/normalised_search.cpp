#include "loci/nn/normalised_search.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "loci/nn/batch_norm.h"
#include "loci/ops/batch_norm/batch_norm_kernel.h"
#include "loci/ops/half_norm/half_norm_kernel.h"
#include "loci/ops/product_key_search/product_key_search_cpu.h"
#include "loci/ops/product_key_select/product_key_select_cpu.h"

namespace loci {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// x [T, C] as the search names it: [T, H, 2, w].
Tensor by_head(const Tensor& x, const Tensor& keys) { return x.view({x.size(0), keys.size(0), 2, keys.size(2)}); }

// The batch's statistics are known, so every query is its own; its gradient waits for the sums over all of them.
class BatchQueries : public QueryNormaliser {
 public:
  BatchQueries(const Tensor& x, const Tensor& constants, int64_t w)
      : x_(x), constants_(constants), features_(x.size(1)), w_(w) {}

  void start_gradient() {
    gradient_ = at::empty(x_.sizes(), x_.options().dtype(at::kFloat));
    sums_ = at::zeros({search_gradient_chunks(x_.size(0)), 2, features_}, x_.options().dtype(at::kDouble));
  }
  const Tensor& gradient() const { return gradient_; }  // [T, C]
  Tensor sums() const {                                 // [2, C]
    for (int64_t c = 1; c < sums_.size(0); ++c) sums_[0] += sums_[c];
    return sums_[0];
  }

  void normalise(int64_t t, int64_t h, int64_t half, int64_t tokens, float* to) const override {
    const int64_t at = (h * 2 + half) * w_;
    const float* const constant = constants_.const_data_ptr<float>() + at;
    with_kernel([&](const auto& kernel, const auto* x) {
      kernel.normalise(x + t * features_ + at, features_, constant, constant + features_, constant + 2 * features_,
                       constant + 3 * features_, tokens, w_, to);
    });
  }

  void take_gradient(int64_t chunk, int64_t t, int64_t h, int64_t half, int64_t tokens,
                     const float* grad) const override {
    const int64_t at = (h * 2 + half) * w_;
    const float* const constant = constants_.const_data_ptr<float>() + at;
    float* const to = gradient_.mutable_data_ptr<float>() + t * features_ + at;
    for (int64_t i = 0; i < tokens; ++i) std::copy_n(grad + i * w_, w_, to + i * features_);
    double* const sum = sums_.mutable_data_ptr<double>() + chunk * 2 * features_ + at;
    with_kernel([&](const auto& kernel, const auto* x) {
      kernel.gradient_sums(x + t * features_ + at, features_, grad, w_, constant, constant + features_, tokens, w_, sum,
                           sum + features_);
    });
  }

 private:
  template <class Run>
  void with_kernel(const Run& run) const {
    const CpuLevel level = cpu_level();
    if (x_.scalar_type() == at::kBFloat16) {
      run(at_level(level, base::batch_norm_bfloat16, avx2::batch_norm_bfloat16, avx512::batch_norm_bfloat16),
          static_cast<const uint16_t*>(x_.const_data_ptr()));
    } else {
      run(at_level(level, base::batch_norm_float32, avx2::batch_norm_float32, avx512::batch_norm_float32),
          x_.const_data_ptr<float>());
    }
  }

  Tensor x_, constants_, gradient_, sums_;
  int64_t features_, w_;
};

struct BatchNormSearch : torch::autograd::Function<BatchNormSearch> {
  static variable_list forward(AutogradContext* context, const Tensor& input, const Tensor& gain, const Tensor& bias,
                               const Tensor& running_mean, const Tensor& running_variance, const Tensor& keys1,
                               const Tensor& keys2, int64_t top_k, int64_t addresses, double momentum,
                               double epsilon) {
    const Tensor x = input.contiguous();
    const BatchStatistics of_batch =
        batch_statistics(x, gain, bias, running_mean, running_variance, momentum, epsilon);
    const BatchQueries queries(x, of_batch.constants, keys1.size(2));
    const auto [score, index] =
        normalised_search_cpu(by_head(x, keys1), queries, keys1, keys2, top_k, addresses, cpu_level());
    context->save_for_backward({x, gain, of_batch.known, of_batch.constants, keys1, keys2, index});
    context->mark_non_differentiable({index});
    return {score, index};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "batch_norm_search: a second derivative is not implemented");
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &gain = saved[1], &constants = saved[3], &keys1 = saved[4], &keys2 = saved[5];
    BatchQueries queries(x, constants, keys1.size(2));
    queries.start_gradient();
    const auto [of_keys1, of_keys2] = normalised_search_backward_cpu(grads[0], saved[6], by_head(x, keys1), queries,
                                                                     keys1, keys2, cpu_level());
    const auto [dx, dgain, dbias] =
        batch_norm_gradient(x, queries.gradient(), gain, {saved[2], constants}, queries.sums());
    return {dx, dgain, dbias, Tensor(), Tensor(), of_keys1, of_keys2, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// Every query is its own: what it was is made again for its gradient.
class HalfQueries : public QueryNormaliser {
 public:
  HalfQueries(const Tensor& x, const Tensor& gain, const Tensor& bias, double epsilon)
      : x_(x), gain_(gain.contiguous()), bias_(bias.defined() ? bias.contiguous() : bias), epsilon_(epsilon) {}

  void start_gradient() {
    const auto options = x_.options().dtype(at::kDouble);
    const int64_t chunks = search_gradient_chunks(x_.size(0));
    gradient_ = at::empty_like(x_);
    of_gain_ = at::zeros({chunks, gain_.size(0), 2, width()}, options);
    if (bias_.defined()) of_bias_ = at::zeros_like(of_gain_);
  }
  const Tensor& gradient() const { return gradient_; }  // [T, C]
  Tensor of_gain() const { return of_gain_.sum(0).to(at::kFloat); }
  Tensor of_bias() const { return of_bias_.defined() ? of_bias_.sum(0).to(at::kFloat) : Tensor(); }

  void normalise(int64_t t, int64_t h, int64_t half, int64_t tokens, float* to) const override {
    const Room room(tokens, width());
    const int64_t at = (h * 2 + half) * width();
    normalise_rows(t, at, tokens, room, to);
  }

  void take_gradient(int64_t chunk, int64_t t, int64_t h, int64_t half, int64_t tokens,
                     const float* grad) const override {
    const Room room(tokens, width());
    const int64_t at = (h * 2 + half) * width(), sums = chunk * x_.size(1) + at;
    normalise_rows(t, at, tokens, room, room.result.get());
    kernel().backward(room.x.get(), grad, room.mean.get(), room.scale.get(), gain_.const_data_ptr<float>() + at, tokens,
                      /*cycle=*/1, width(), room.result.get(), of_gain_.mutable_data_ptr<double>() + sums,
                      bias_.defined() ? of_bias_.mutable_data_ptr<double>() + sums : nullptr);
    for (int64_t i = 0; i < tokens; ++i) {
      const float* const from = room.result.get() + i * width();
      const int64_t place = (t + i) * x_.size(1) + at;
      if (x_.scalar_type() == at::kFloat) {
        std::copy_n(from, width(), gradient_.mutable_data_ptr<float>() + place);
      } else {
        std::copy_n(from, width(), gradient_.mutable_data_ptr<at::BFloat16>() + place);
      }
    }
  }

 private:
  struct Room {
    std::unique_ptr<float[]> x, result, mean, scale;
    Room(int64_t tokens, int64_t w)
        : x(new float[tokens * w]), result(new float[tokens * w]), mean(new float[tokens]), scale(new float[tokens]) {}
  };

  static const HalfNormKernel<float>& kernel() {
    return at_level(cpu_level(), base::half_norm_float32, avx2::half_norm_float32, avx512::half_norm_float32);
  }
  int64_t width() const { return gain_.size(2); }

  // Leaves x in float, mean and scale in the room.
  void normalise_rows(int64_t t, int64_t at, int64_t tokens, const Room& room, float* to) const {
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t place = (t + i) * x_.size(1) + at;
      if (x_.scalar_type() == at::kFloat) {
        std::copy_n(x_.const_data_ptr<float>() + place, width(), room.x.get() + i * width());
      } else {
        std::copy_n(x_.const_data_ptr<at::BFloat16>() + place, width(), room.x.get() + i * width());
      }
    }
    kernel().forward(room.x.get(), gain_.const_data_ptr<float>() + at,
                     bias_.defined() ? bias_.const_data_ptr<float>() + at : nullptr, tokens, /*cycle=*/1, width(),
                     epsilon_, to, room.mean.get(), room.scale.get());
  }

  Tensor x_, gain_, bias_, gradient_, of_gain_, of_bias_;
  double epsilon_;
};

struct HalfNormSearch : torch::autograd::Function<HalfNormSearch> {
  // Without a bias, any tensor stands for it: the framework takes no undefined ones.
  static variable_list forward(AutogradContext* context, const Tensor& input, const Tensor& gain, const Tensor& bias,
                               bool has_bias, const Tensor& keys1, const Tensor& keys2, int64_t top_k,
                               int64_t addresses, double epsilon) {
    const Tensor x = input.contiguous();
    const HalfQueries queries(x, gain, has_bias ? bias : Tensor(), epsilon);
    const auto [score, index] =
        normalised_search_cpu(by_head(x, keys1), queries, keys1, keys2, top_k, addresses, cpu_level());
    context->save_for_backward({x, gain, bias, keys1, keys2, index});
    context->saved_data["has_bias"] = has_bias;
    context->saved_data["epsilon"] = epsilon;
    context->mark_non_differentiable({index});
    return {score, index};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(),
                                "half_norm_search: a second derivative is not implemented");
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &keys1 = saved[3], &keys2 = saved[4];
    HalfQueries queries(x, saved[1], context->saved_data["has_bias"].toBool() ? saved[2] : Tensor(),
                        context->saved_data["epsilon"].toDouble());
    queries.start_gradient();
    const auto [of_keys1, of_keys2] = normalised_search_backward_cpu(grads[0], saved[5], by_head(x, keys1), queries,
                                                                     keys1, keys2, cpu_level());
    return {queries.gradient(), queries.of_gain(), queries.of_bias(), Tensor(), of_keys1, of_keys2,
            Tensor(),           Tensor(),          Tensor()};
  }
};

void check_search(const char* who, const Tensor& x, const Tensor& keys1, const Tensor& keys2, int64_t top_k) {
  TORCH_CHECK(x.dim() == 2 && keys1.dim() == 3 && keys2.dim() == 3 &&
                  x.size(1) == keys1.size(0) * 2 * keys1.size(2),
              who, ": x must be [T, H * 2 * w] for keys [H, n, w], got ", x.sizes(), " and ", keys1.sizes());
  TORCH_CHECK(search_normalises(x, keys1, keys2, top_k), who,
              ": x must be float32 or bfloat16 on CPU with more than ", kFewTokens,
              " tokens, keys float32 of sizes that the kernels take, got ", x.scalar_type(), " ", x.sizes(), " and ",
              keys1.scalar_type(), " ", keys1.sizes());
}

}  // namespace

bool search_normalises(const Tensor& x, const Tensor& keys1, const Tensor& keys2, int64_t top_k) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) &&
         keys1.scalar_type() == at::kFloat && x.size(0) > kFewTokens &&
         product_key_select_cpu_takes(keys1.size(1), keys2.size(1), top_k);
}

std::tuple<Tensor, Tensor> batch_norm_search(const Tensor& x, const Tensor& gain, const Tensor& bias,
                                             const Tensor& running_mean, const Tensor& running_variance,
                                             const Tensor& keys1, const Tensor& keys2, SearchSize size,
                                             double momentum, double epsilon) {
  check_batch_norm(x, gain, bias, running_mean, running_variance);
  check_search("batch_norm_search", x, keys1, keys2, size.top_k);
  const auto result = BatchNormSearch::apply(x, gain, bias, running_mean, running_variance, keys1, keys2, size.top_k,
                                             size.addresses, momentum, epsilon);
  return {result[0], result[1]};
}

std::tuple<Tensor, Tensor> half_norm_search(const Tensor& x, const Tensor& gain, const Tensor& bias,
                                            const Tensor& keys1, const Tensor& keys2, SearchSize size,
                                            double epsilon) {
  check_search("half_norm_search", x, keys1, keys2, size.top_k);
  const std::vector<int64_t> features = {keys1.size(0), 2, keys1.size(2)};
  for (const Tensor& other : {gain, bias}) {
    TORCH_CHECK(!other.defined() || (other.sizes() == features && other.scalar_type() == at::kFloat),
                "half_norm_search: gain and bias must be float32 ", at::IntArrayRef(features), ", got ",
                other.scalar_type(), " ", other.sizes());
  }
  const auto result = HalfNormSearch::apply(x, gain, bias.defined() ? bias : gain, bias.defined(), keys1, keys2,
                                            size.top_k, size.addresses, epsilon);
  return {result[0], result[1]};
}

}  // namespace loci
