#include "loci/optim/parameter_states.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <set>
#include <utility>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr std::string_view kParameterStates = "optimiser";

}  // namespace

void check_dense_parameter(const NamedParameter& parameter) {
  const at::Tensor& value = parameter.value;
  if (!value.is_cpu())
    fail(ExitCode::usage, kParameterStates, parameter.name + " must be on the CPU", value.device().str());
  if (value.scalar_type() != at::kFloat && value.scalar_type() != at::kDouble) {
    fail(ExitCode::usage, kParameterStates, parameter.name + " must be float32 or float64",
         c10::toString(value.scalar_type()));
  }
  if (!value.is_non_overlapping_and_dense()) {
    fail(ExitCode::bug, kParameterStates, parameter.name + " must be dense in memory", "strides with gaps");
  }
}

ParameterStates::ParameterStates(const std::vector<NamedParameter>& parameters, const DenseOptimizerOptions& options,
                                 size_t moments) {
  std::set<std::string> names;
  for (const NamedParameter& parameter : parameters) {
    check_dense_parameter(parameter);
    if (!names.insert(parameter.name).second) {
      fail(ExitCode::bug, kParameterStates, "names of parameters must differ", "twice " + parameter.name);
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

ParameterStates::Entry& ParameterStates::of(const at::Tensor& parameter) {
  const auto place = places_.find(parameter.unsafeGetTensorImpl());
  if (place == places_.end()) fail(ExitCode::bug, kParameterStates, "parameter must be one of the set", "another");
  return entries_[place->second];
}

at::Tensor ParameterStates::gradient_of(const at::Tensor& parameter) {
  const at::Tensor gradient = parameter.grad();
  const bool alike = gradient.strides() == parameter.strides();
  return alike ? gradient : at::empty_like(parameter.detach()).copy_(gradient);
}

void ParameterStates::clear(const at::Tensor& parameter) {
  Entry& entry = of(parameter);
  for (at::Tensor& moment : entry.moments) moment.zero_();
  entry.count.zero_();
}

std::vector<at::Tensor> moments_of(const std::vector<ParameterStates::Entry*>& entries, size_t which) {
  std::vector<at::Tensor> moments;
  for (const ParameterStates::Entry* entry : entries) moments.push_back(entry->moments[which]);
  return moments;
}

}  // namespace loci
