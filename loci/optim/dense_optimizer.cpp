#include "loci/optim/dense_optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>

#include "loci/base/check.h"
#include "loci/optim/random_bases.h"

namespace loci {
namespace {

constexpr std::string_view kDenseOptimizer = "optimiser";

void check_dense_parameter(const NamedParameter& parameter) {
  const at::Tensor& value = parameter.value;
  if (!value.is_cpu())
    fail(ExitCode::usage, kDenseOptimizer, parameter.name + " must be on the CPU", value.device().str());
  if (value.scalar_type() != at::kFloat && value.scalar_type() != at::kDouble) {
    fail(ExitCode::usage, kDenseOptimizer, parameter.name + " must be float32 or float64",
         c10::toString(value.scalar_type()));
  }
  if (!value.is_non_overlapping_and_dense()) {
    fail(ExitCode::bug, kDenseOptimizer, parameter.name + " must be dense in memory", "strides with gaps");
  }
}

// Parameters with `count` state tensors each, and groups of them for kernels that walk raw memory.
class ParameterStates {
 public:
  struct Entry {
    std::string name;
    double decay;
    double rate;  // factor
    std::vector<at::Tensor> moments;
    at::Tensor count;  // float32 scalar: updates made
    OwnUpdate own;
  };

  ParameterStates(const std::vector<NamedParameter>& parameters, const DenseOptimizerOptions& options, size_t moments) {
    std::set<std::string> names;
    for (const NamedParameter& parameter : parameters) {
      check_dense_parameter(parameter);
      if (!names.insert(parameter.name).second) {
        fail(ExitCode::bug, kDenseOptimizer, "names of parameters must differ", "twice " + parameter.name);
      }
      Entry entry{parameter.name,
                  parameter.decay ? options.weight_decay : 0,
                  parameter.rate * (parameter.embedding ? options.embedding_rate : 1),
                  {},
                  at::zeros({}, at::kFloat),
                  parameter.own};
      const at::Tensor& trained = parameter.own.trained.defined() ? parameter.own.trained : parameter.value;
      for (size_t i = 0; i < moments; ++i) {
        entry.moments.push_back(at::zeros_like(trained.detach()));  // of its strides
      }
      places_[parameter.value.unsafeGetTensorImpl()] = entries_.size();
      entries_.push_back(std::move(entry));
    }
  }

  Entry& of(const at::Tensor& parameter) {
    const auto place = places_.find(parameter.unsafeGetTensorImpl());
    if (place == places_.end()) fail(ExitCode::bug, kDenseOptimizer, "parameter must be one of the set", "another");
    return entries_[place->second];
  }
  const std::vector<Entry>& entries() const { return entries_; }

  // Calls update(decay, rate factor, values, gradients, entries) for parameters of one decay, factor and dtype at a
  // time, gradients with the strides of their parameters.
  template <class Update>
  void for_groups(const std::vector<at::Tensor>& parameters, const Update& update) {
    std::map<std::tuple<double, double, at::ScalarType>, std::vector<const at::Tensor*>> groups;
    for (const at::Tensor& parameter : parameters) {
      const Entry& entry = of(parameter);
      if (entry.own.trained.defined()) continue;
      groups[{entry.decay, entry.rate, parameter.scalar_type()}].push_back(&parameter);
    }
    for (const auto& [key, members] : groups) {
      std::vector<at::Tensor> values, gradients;
      std::vector<Entry*> entries;
      for (const at::Tensor* parameter : members) {
        entries.push_back(&of(*parameter));
        values.push_back(*parameter);
        const at::Tensor gradient = parameter->grad();
        const bool alike = gradient.strides() == parameter->strides();
        gradients.push_back(alike ? gradient : at::empty_like(parameter->detach()).copy_(gradient));
      }
      update(std::get<0>(key), std::get<1>(key), values, gradients, entries);
    }
  }

  void clear(const at::Tensor& parameter) {
    Entry& entry = of(parameter);
    for (at::Tensor& moment : entry.moments) moment.zero_();
    entry.count.zero_();
  }

 private:
  std::vector<Entry> entries_;
  std::unordered_map<const c10::TensorImpl*, size_t> places_;
};

std::vector<at::Tensor> moments_of(const std::vector<ParameterStates::Entry*>& entries, size_t which) {
  std::vector<at::Tensor> moments;
  for (const ParameterStates::Entry* entry : entries) moments.push_back(entry->moments[which]);
  return moments;
}

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
           {{"adamw", DenseRule::adamw}, {"sgd", DenseRule::sgd}, {"random_bases", DenseRule::random_bases}});
  f.field("learning_rate", learning_rate, "peak of the learning rate", {.minimum = 0});
  f.field("embedding_rate", embedding_rate, "factor on the learning rate of the embedding", {.minimum = 0});
  f.when(kind == DenseRule::adamw, "optimizer.kind is \"adamw\"", [&] {
    f.field("beta1", beta1, "decay of the first moment", {.minimum = 0, .maximum = 0.999999});
    f.field("beta2", beta2, "decay of the second moment", {.minimum = 0, .maximum = 0.999999});
    f.field("epsilon", epsilon, "added to the root of the second moment", {.minimum = 0});
  });
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
  if (kind == DenseRule::adamw) return 8;
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
         options.kind == DenseRule::adamw ? "\"adamw\"" : "\"random_bases\"");
  }
  if (options.kind == DenseRule::random_bases) {
    for (const NamedParameter& parameter : parameters) check_dense_parameter(parameter);
    return std::make_unique<RandomBases>(options, parameters, seed);
  }
  return std::make_unique<AdamW>(options, parameters);
}

}  // namespace loci
