// Legend: n weights, d directions.
#include "loci/optim/random_bases.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr std::string_view kRandomBases = "random_bases";
constexpr int64_t kSteps = int64_t{1} << 32;  // that have bases of their own

bool is_given(const std::vector<const c10::TensorImpl*>& given, const at::Tensor& value) {
  return std::binary_search(given.begin(), given.end(), value.unsafeGetTensorImpl());
}

std::vector<const c10::TensorImpl*> sorted(const std::vector<at::Tensor>& parameters) {
  std::vector<const c10::TensorImpl*> list;
  for (const at::Tensor& parameter : parameters) list.push_back(parameter.unsafeGetTensorImpl());
  std::sort(list.begin(), list.end());
  return list;
}

}  // namespace

void RandomBasesOptions::fields(ConfigFields& f) {
  f.field("directions", directions, "random directions of a step, in all compartments together",
          {.minimum = 1, .maximum = 1 << 24});
  f.choice("compartments", compartments, "weights that share directions: all, or those of a tensor",
           {{"one", Compartments::one}, {"per_tensor", Compartments::per_tensor}});
  f.choice("values", values, "numbers of a direction: nearly normal, or signs",
           {{"normal", BasisValues::normal}, {"signs", BasisValues::signs}});
  f.field("fixed", fixed, "the directions of the first step stay for ever");
  f.choice("from", from, "coefficients from the gradient, or from a loss for each direction",
           {{"gradient", CoefficientsFrom::gradient}, {"losses", CoefficientsFrom::losses}});
  f.when(from == CoefficientsFrom::losses, "optimizer.bases.from is \"losses\"", [&] {
    f.field("distance", distance, "of the weights whose losses are taken", {.minimum = 1e-6, .maximum = 1e6});
    f.choice("baseline", baseline, "what is subtracted from the losses: nothing, or their mean",
             {{"none", LossBaseline::none}, {"mean", LossBaseline::mean}});
  });
}

std::vector<int64_t> share_directions(int64_t directions, const std::vector<int64_t>& weights) {
  const auto parts = static_cast<int64_t>(weights.size());
  const int64_t all = std::accumulate(weights.begin(), weights.end(), int64_t{0});
  if (directions < parts || directions > all) {
    fail(ExitCode::usage, kRandomBases,
         fmt::format("directions must be from {} (the compartments) to {} (the weights)", parts, all),
         fmt::to_string(directions));
  }
  // One for each, and the others to the compartment whose share is furthest below its proportion.
  std::vector<int64_t> shares(weights.size(), 1);
  const auto wanted = [&](size_t i) {
    return static_cast<double>(directions) * static_cast<double>(weights[i]) / static_cast<double>(all);
  };
  int64_t left = directions - parts;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t more = std::clamp<int64_t>(static_cast<int64_t>(wanted(i)) - 1, 0, left);
    shares[i] += more;
    left -= more;
  }
  for (; left > 0; --left) {
    size_t most = 0;
    for (size_t i = 1; i < weights.size(); ++i) {
      const auto lacks = [&](size_t at) { return wanted(at) - static_cast<double>(shares[at]); };
      if (lacks(i) > lacks(most)) most = i;
    }
    ++shares[most];
  }
  return shares;
}

RandomBases::RandomBases(const DenseOptimizerOptions& options, const std::vector<NamedParameter>& parameters,
                         uint64_t seed)
    : options_(options.bases), type_(at::kFloat), seed_(seed), steps_(at::zeros({}, at::kLong)) {
  for (const NamedParameter& parameter : parameters) {
    if (parameter.value.numel() == 0) continue;
    if (compartments_.empty() || options_.compartments == Compartments::per_tensor) compartments_.emplace_back();
    Compartment& compartment = compartments_.back();
    compartment.members.push_back({parameter.value, parameter.decay ? options.weight_decay : 0,
                                   parameter.rate * (parameter.embedding ? options.embedding_rate : 1),
                                   compartment.weights});
    compartment.weights += parameter.value.numel();
    if (parameter.value.scalar_type() == at::kDouble) type_ = at::kDouble;
  }
  if (compartments_.empty()) return;
  std::vector<int64_t> weights;
  for (const Compartment& compartment : compartments_) weights.push_back(compartment.weights);
  const std::vector<int64_t> shares = share_directions(options_.directions, weights);
  const int64_t all = std::accumulate(weights.begin(), weights.end(), int64_t{0});
  for (size_t i = 0, first = 0; i < shares.size(); first += static_cast<size_t>(shares[i++])) {
    compartments_[i].directions = shares[i];
    compartments_[i].first = static_cast<int64_t>(first);
    compartments_[i].scale = static_cast<double>(weights[i]) * static_cast<double>(options_.directions) /
                             (static_cast<double>(shares[i]) * static_cast<double>(all));
  }
}

BasisKey RandomBases::key_of(size_t compartment) const {
  return {.seed = static_cast<int64_t>(seed_),
          .step = options_.fixed ? 0 : *steps_.const_data_ptr<int64_t>() % kSteps,
          .compartment = static_cast<int64_t>(compartment),
          .values = options_.values};
}

// Weight decay belongs to the gradient, as in SGD. Parameters that are not given have a gradient of 0.
at::Tensor RandomBases::gradient_of(const Compartment& compartment, const Given& given) const {
  std::vector<at::Tensor> parts;
  for (const Member& member : compartment.members) {
    const at::Tensor value = member.value.detach();
    if (!is_given(given, member.value)) {
      parts.push_back(at::zeros({value.numel()}, type_));
      continue;
    }
    const at::Tensor gradient = member.value.grad();
    parts.push_back((member.decay == 0 ? gradient : gradient + value * member.decay).reshape(-1).to(type_));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

at::Tensor RandomBases::coefficients(const std::vector<at::Tensor>& parameters, double divisor, int64_t rank,
                                     int64_t ranks) const {
  const at::NoGradGuard no_grad;
  const Given given = sorted(parameters);
  at::Tensor c = at::zeros({compartments_.empty() ? 0 : options_.directions}, type_);
  for (size_t i = 0; i < compartments_.size(); ++i) {
    const Compartment& compartment = compartments_[i];
    const int64_t begin = compartment.directions * rank / ranks, end = compartment.directions * (rank + 1) / ranks;
    const at::Tensor own = random_basis_dot(gradient_of(compartment, given), begin, end - begin, key_of(i));
    c.narrow(0, compartment.first + begin, end - begin).copy_(own);
  }
  return divisor == 1 ? c : c.div_(divisor);
}

void RandomBases::move(const std::vector<at::Tensor>& parameters, const at::Tensor& coefficients, double rate) {
  const at::NoGradGuard no_grad;
  const Given given = sorted(parameters);
  for (size_t i = 0; i < compartments_.size(); ++i) {
    const Compartment& compartment = compartments_[i];
    const at::Tensor step = at::zeros({compartment.weights}, type_);
    const at::Tensor c = coefficients.narrow(0, compartment.first, compartment.directions);
    random_basis_add(step, c, -rate * compartment.scale, 0, key_of(i));
    for (const Member& member : compartment.members) {
      if (!is_given(given, member.value)) continue;
      at::Tensor value = member.value.detach();
      const at::Tensor part = step.narrow(0, member.first, value.numel()).view(value.sizes());
      value.add_(member.rate == 1 ? part : part * member.rate);
    }
  }
  steps_.add_(1);
}

void RandomBases::step(const std::vector<at::Tensor>& parameters, double rate, double divisor) {
  move(parameters, coefficients(parameters, divisor), rate);
}

// c of a compartment. The weights keep their bits.
at::Tensor RandomBases::loss_differences(size_t which, const std::function<double()>& loss) const {
  const Compartment& compartment = compartments_[which];
  std::vector<at::Tensor> kept;
  for (const Member& member : compartment.members) kept.push_back(member.value.detach().clone());
  const at::Tensor losses = at::empty({compartment.directions}, at::kDouble);
  for (int64_t i = 0; i < compartment.directions; ++i) {
    const at::Tensor change = at::zeros({compartment.weights}, type_);
    random_basis_add(change, at::ones({1}, type_), options_.distance, i, key_of(which));
    for (size_t m = 0; m < kept.size(); ++m) {
      const Member& member = compartment.members[m];
      at::Tensor value = member.value.detach();
      value.add_(change.narrow(0, member.first, value.numel()).view(value.sizes()));
    }
    losses.mutable_data_ptr<double>()[i] = loss();
    for (size_t m = 0; m < kept.size(); ++m) compartment.members[m].value.detach().copy_(kept[m]);
  }
  const at::Tensor differences = options_.baseline == LossBaseline::mean ? losses - losses.mean() : losses;
  return (differences / options_.distance).to(type_);
}

bool RandomBases::step_by_losses(const std::function<double()>& loss, double rate) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> parts = {at::zeros({0}, type_)}, parameters;
  for (size_t i = 0; i < compartments_.size(); ++i) {
    parts.push_back(loss_differences(i, loss));
    for (const Member& member : compartments_[i].members) parameters.push_back(member.value);
  }
  const at::Tensor c = at::cat(parts);
  if (!c.isfinite().all().item<bool>()) return false;
  move(parameters, c, rate);
  return true;
}

std::vector<std::pair<std::string, at::Tensor>> RandomBases::state() const {
  return {{"bases.steps", steps_}};
}

void RandomBases::clear(const at::Tensor& /*parameter*/) {}

void RandomBases::clear_rows(const at::Tensor& /*parameter*/, const at::Tensor& /*rows*/, const at::Tensor& /*like*/) {}

}  // namespace loci
