#include "loci/optim/dense_optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include <optional>

#include "loci/base/check.h"
#include "loci/optim/parameter_states.h"
#include "loci/optim/random_bases.h"
#include "loci/optim/shift_adamax.h"

namespace loci {
namespace {

constexpr std::string_view kDenseOptimizer = "optimiser";

std::optional<at::Tensor> scale_of(double divisor) {
  return divisor == 1 ? std::nullopt : std::optional(at::scalar_tensor(divisor, at::kFloat));
}

class AdamW final : public DenseOptimizer {
 public:
  AdamW(const DenseOptimizerOptions& options, const std::vector<NamedParameter>& parameters)
      : options_(options), states_(parameters, options, 2) {}

  void step(const std::vector<at::Tensor>& parameters, double rate, double divisor) override {
    const at::NoGradGuard no_grad;
    const auto scale = scale_of(divisor);
    states_.for_groups(
        parameters, [&](double decay, double factor, const auto& values, const auto& gradients, const auto& entries) {
          std::vector<at::Tensor> counts;
          for (ParameterStates::Entry* entry : entries) counts.push_back(entry->count.add_(1));
          at::_fused_adamw_(values, gradients, moments_of(entries, 0), moments_of(entries, 1), {}, counts,
                            rate * factor, options_.beta1, options_.beta2, decay, options_.epsilon, /*amsgrad=*/false,
                            /*maximize=*/false, scale);
        });
  }
  std::vector<std::pair<std::string, at::Tensor>> state() const override {
    std::vector<std::pair<std::string, at::Tensor>> named;
    for (const ParameterStates::Entry& entry : states_.entries()) {
      named.emplace_back(entry.name + ".moment1", entry.moments[0]);
      named.emplace_back(entry.name + ".moment2", entry.moments[1]);
      named.emplace_back(entry.name + ".count", entry.count);
    }
    return named;
  }
  void clear(const at::Tensor& parameter) override { states_.clear(parameter); }
  void clear_rows(const at::Tensor& parameter, const at::Tensor& rows, const at::Tensor& like) override {
    const auto& moments = states_.of(parameter).moments;
    reset_moment_rows(moments[0], rows);
    reset_moment_rows(moments[1], rows, like);
  }

 private:
  DenseOptimizerOptions options_;
  ParameterStates states_;
};

class Sgd final : public DenseOptimizer {
 public:
  Sgd(const DenseOptimizerOptions& options, const std::vector<NamedParameter>& parameters)
      : options_(options), states_(parameters, options, options.momentum > 0 ? 1 : 0) {}

  void step(const std::vector<at::Tensor>& parameters, double rate, double divisor) override {
    const at::NoGradGuard no_grad;
    for (const at::Tensor& parameter : parameters) {
      const ParameterStates::Entry& entry = states_.of(parameter);
      if (!entry.own.trained.defined()) continue;
      entry.own.apply(parameter.grad(), entry.moments.empty() ? at::Tensor() : entry.moments[0],
                      {rate * entry.rate, options_.momentum, entry.decay, divisor, options_.nesterov});
    }
    const auto scale = scale_of(divisor);
    states_.for_groups(
        parameters, [&](double decay, double factor, const auto& values, const auto& gradients, const auto& entries) {
          const auto momentum = options_.momentum > 0 ? moments_of(entries, 0) : std::vector<at::Tensor>();
          // A buffer of zeros makes the first step what the framework makes of it: the buffer becomes the gradient.
          at::_fused_sgd_(values, gradients, momentum, decay, options_.momentum, rate * factor, /*dampening=*/0,
                          options_.nesterov,
                          /*maximize=*/false, /*is_first_step=*/false, scale);
        });
  }
  std::vector<std::pair<std::string, at::Tensor>> state() const override {
    std::vector<std::pair<std::string, at::Tensor>> named;
    if (options_.momentum == 0) return named;
    for (const ParameterStates::Entry& entry : states_.entries()) {
      named.emplace_back(entry.name + ".momentum", entry.moments[0]);
    }
    return named;
  }
  void clear(const at::Tensor& parameter) override { states_.clear(parameter); }
  void clear_rows(const at::Tensor& parameter, const at::Tensor& rows, const at::Tensor&) override {
    for (const at::Tensor& velocity : states_.of(parameter).moments) reset_moment_rows(velocity, rows);
  }

 private:
  DenseOptimizerOptions options_;
  ParameterStates states_;
};

}  // namespace

void reset_moment_rows(const at::Tensor& moment, const at::Tensor& rows, const at::Tensor& like) {
  if (!moment.is_contiguous() || moment.dim() < 1) {
    fail(ExitCode::bug, kDenseOptimizer, "a parameter must be contiguous for its rows to be cleared",
         c10::str(moment.sizes()));
  }
  const at::NoGradGuard no_grad;
  at::Tensor all = moment.view({-1, moment.size(-1)});
  at::Tensor mean = at::zeros({all.size(1)}, at::kDouble);
  if (like.defined() && like.numel() > 0) {
    const at::Tensor kept = all.index_select(0, like).to(at::kDouble);
    for (int64_t row = 0; row < kept.size(0); ++row) mean.add_(kept[row]);
    mean.div_(kept.size(0));
  }
  all.index_copy_(0, rows, mean.to(all.scalar_type()).expand({rows.numel(), -1}));
}

void DenseOptimizerOptions::fields(ConfigFields& f) {
  f.choice("kind", kind, "update rule of the dense parameters",
           {{"adamw", DenseRule::adamw},
            {"sgd", DenseRule::sgd},
            {"random_bases", DenseRule::random_bases},
            {"shift_adamax", DenseRule::shift_adamax}});
  f.field("learning_rate", learning_rate, "peak of the learning rate", {.minimum = 0});
  f.field("embedding_rate", embedding_rate, "factor on the learning rate of the embedding", {.minimum = 0});
  const bool has_moments = kind == DenseRule::adamw || kind == DenseRule::shift_adamax;
  f.when(has_moments, "optimizer.kind is \"adamw\" or \"shift_adamax\"", [&] {
    f.field("beta1", beta1, "decay of the first moment", {.minimum = 0, .maximum = 0.999999});
    f.field("beta2", beta2, "decay of the second moment", {.minimum = 0, .maximum = 0.999999});
  });
  f.when(kind == DenseRule::adamw, "optimizer.kind is \"adamw\"",
         [&] { f.field("epsilon", epsilon, "added to the root of the second moment", {.minimum = 0}); });
  f.when(kind == DenseRule::sgd, "optimizer.kind is \"sgd\"", [&] {
    f.field("momentum", momentum, "decay of the velocity; 0: none", {.minimum = 0, .maximum = 0.999999});
    f.field("nesterov", nesterov, "the momentum of Nesterov");
  });
  f.field("weight_decay", weight_decay, "weight decay of matrices; gains, biases and keys have none", {.minimum = 0});
  f.field("clip_norm", clip_norm, "largest norm of all dense gradients together; 0: not clipped", {.minimum = 0});
  f.when(kind == DenseRule::random_bases, "optimizer.kind is \"random_bases\"", [&] { f.section("bases", bases); });
  f.section("schedule", schedule);
}

void DenseOptimizerOptions::check() const {
  schedule.check();
  if (kind == DenseRule::sgd && nesterov && momentum == 0) {
    fail(ExitCode::usage, "config", "optimizer.momentum must be above 0 where optimizer.nesterov is true", "0");
  }
  const bool by_losses = kind == DenseRule::random_bases && bases.from == CoefficientsFrom::losses;
  if (by_losses && (weight_decay > 0 || clip_norm > 0)) {
    fail(ExitCode::usage, "config",
         "optimizer.weight_decay and optimizer.clip_norm must be 0 where optimizer.bases.from is \"losses\"",
         fmt::format("{} and {}", weight_decay, clip_norm));
  }
}

int64_t DenseOptimizerOptions::state_bytes() const {
  if (kind == DenseRule::adamw || kind == DenseRule::shift_adamax) return 8;
  if (kind == DenseRule::random_bases) return 8;  // the gradients and the step, each as one vector
  return momentum > 0 ? 4 : 0;
}

std::unique_ptr<DenseOptimizer> make_dense_optimizer(const DenseOptimizerOptions& options,
                                                     const std::vector<NamedParameter>& parameters, uint64_t seed) {
  if (options.kind == DenseRule::sgd) return std::make_unique<Sgd>(options, parameters);
  for (const NamedParameter& parameter : parameters) {
    if (!parameter.own.trained.defined()) continue;
    fail(ExitCode::usage, "config",
         fmt::format("optimizer.kind must be \"sgd\" for {}, which has an update of its own", parameter.name),
         options.kind == DenseRule::random_bases ? "\"random_bases\""
         : options.kind == DenseRule::adamw      ? "\"adamw\""
                                                 : "\"shift_adamax\"");
  }
  if (options.kind == DenseRule::random_bases) {
    for (const NamedParameter& parameter : parameters) check_dense_parameter(parameter);
    return std::make_unique<RandomBases>(options, parameters, seed);
  }
  if (options.kind == DenseRule::shift_adamax) return std::make_unique<ShiftAdamax>(options, parameters);
  return std::make_unique<AdamW>(options, parameters);
}

}  // namespace loci
