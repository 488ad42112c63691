// Legend: B samples, C channels of x, A channels that are added, S depth.
#include "loci/nn/small/ode_block.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

// A number of each sample [B], shaped to multiply z [B, ..].
Tensor beside(const Tensor& of_samples, const Tensor& z) {
  std::vector<int64_t> shape(static_cast<size_t>(z.dim()), 1);
  shape[0] = z.size(0);
  return of_samples.view(shape);
}

// A linear map of channels, in dimension 1.
Tensor map_channels(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (x.dim() == 2) return at::linear(x, weight, bias);
  return at::linear(x.movedim(1, -1), weight, bias).movedim(-1, 1);
}

// [z, a channel of s].
void append_depth(std::vector<Tensor>& inputs, const Tensor& s) {
  std::vector<int64_t> sizes = inputs[0].sizes().vec();
  sizes[1] = 1;
  inputs.push_back((s.dim() == 0 ? s : beside(s, inputs[0])).to(inputs[0].scalar_type()).expand(sizes));
}

}  // namespace

void OdeBlockOptions::fields(ConfigFields& f) {
  f.field("depth", depth, "S: how far the equation is solved; of depth_kind own, where its net starts",
          {.minimum = -1e6, .maximum = 1e6});
  f.choice<OdeDepth>("depth_kind", depth_kind, "of all samples, each sample's own (with a sign), or its absolute value",
                     {{"constant", OdeDepth::constant}, {"own", OdeDepth::own}, {"absolute", OdeDepth::absolute}});
  f.when(depth_kind != OdeDepth::constant, "model.depth_kind is not \"constant\"", [&] {
    f.field("depth_width", depth_width, "hidden units of the net that gives the depth",
            {.minimum = 1, .maximum = 4096});
  });
  f.choice<OdeStart>("start", start, "the state begins as the input, with zeros, or as a learned linear map of it",
                     {{"same", OdeStart::same}, {"zeros", OdeStart::zeros}, {"learned", OdeStart::learned}});
  f.when(start != OdeStart::same, "model.start is not \"same\"", [&] {
    f.field("added", added, "channels that are added to those of the input", {.minimum = 0, .maximum = 4096});
  });
  f.field("order", order, "of the equation: 1 z' = f, 2 z'' = f ..", {.minimum = 1, .maximum = 16});
  f.field("data_control", data_control, "the field reads the input too");
  f.section("solver", solver);
  f.section("gradient", gradient);
}

void OdeBlockOptions::check() const {
  solver.check();
  const auto need = [](bool holds, const char* expected, const std::string& got) {
    if (!holds) fail(ExitCode::usage, "OdeBlock", expected, got);
  };
  need(channels >= 1 && order >= 1, "channels and order must be at least 1", fmt::format("{} and {}", channels, order));
  need(std::isfinite(depth) && depth != 0, "depth must be a number that is not 0", fmt::format("{}", depth));
  need(start != OdeStart::same || added == 0, "start must be \"zeros\" or \"learned\" where channels are added",
       fmt::format("\"same\" with {} added", added));
  need(added >= 0 && (start != OdeStart::zeros || added > 0), "added must be at least 1 where start is \"zeros\"",
       fmt::to_string(added));
}

OdeBlock::OdeBlock(std::vector<OdePart> pieces, const OdeBlockOptions& options, uint64_t seed, const std::string& name)
    : Module("OdeBlock"), options_(options), pieces_(std::move(pieces)) {
  options_.check();
  const auto count = std::ssize(pieces_);
  if (count == 0) fail(ExitCode::usage, "OdeBlock", "there must be a field", "none");
  const bool fixed = !ode_tableau(options_.solver.method).estimates();
  if (fixed && options_.solver.steps % count != 0) {
    fail(ExitCode::usage, "OdeBlock", fmt::format("steps must be a multiple of the {} pieces", count),
         fmt::to_string(options_.solver.steps));
  }
  for (size_t i = 0; i < pieces_.size(); ++i) {
    register_module(count == 1 ? "field" : fmt::format("field{}", i), pieces_[i].module);
  }
  const int64_t C = options_.channels, H = options_.depth_width;
  const auto normal = [&](const std::string& which, at::IntArrayRef sizes) {
    const double deviation = 1 / std::sqrt(static_cast<double>(sizes[1]));
    return register_parameter(which, normal_start(seed, name + "." + which, sizes, deviation));
  };
  if (options_.start == OdeStart::learned) {
    start_weight_ = normal("start_weight", {options_.state_channels(), C});
    start_bias_ = register_parameter("start_bias", at::zeros({options_.state_channels()}));
  }
  if (options_.depth_kind != OdeDepth::constant) {
    depth_weight1_ = normal("depth_weight1", {H, C});
    depth_bias1_ = register_parameter("depth_bias1", at::zeros({H}));
    depth_weight2_ = normal("depth_weight2", {1, H});
    depth_bias2_ = register_parameter("depth_bias2", at::full({1}, options_.depth));
  }
}

Tensor OdeBlock::own_depth(const Tensor& x) const {
  if (options_.depth_kind == OdeDepth::constant) return {};
  const Tensor mean = x.dim() == 2 ? x : x.flatten(2).mean(2);  // [B, C]
  const Tensor hidden = at::linear(mean, depth_weight1_, depth_bias1_).tanh();
  const Tensor S = at::linear(hidden, depth_weight2_, depth_bias2_).squeeze(1);
  return options_.depth_kind == OdeDepth::absolute ? S.abs() : S;
}

Tensor OdeBlock::depth(const Tensor& x) const {
  const Tensor own = own_depth(x);
  return own.defined() ? own : at::scalar_tensor(options_.depth, x.options());
}

OdeState OdeBlock::state_of(const Tensor& x) const {
  TORCH_CHECK(x.dim() >= 2 && x.size(1) == options_.channels && x.is_floating_point(), "OdeBlock: x must be [B, ",
              options_.channels, ", ..] of a floating type, got ", x.sizes(), " of ", x.scalar_type());
  if (options_.start == OdeStart::learned) {
    if (options_.order == 1) return {map_channels(x, start_weight_, start_bias_)};
    return map_channels(x, start_weight_, start_bias_).chunk(options_.order, 1);
  }
  std::vector<int64_t> sizes = x.sizes().vec();
  OdeState state = {x};
  if (options_.start == OdeStart::zeros) {
    sizes[1] = options_.added;
    state[0] = at::cat({x, at::zeros(sizes, x.options())}, 1);
  }
  sizes[1] = options_.part_channels();
  while (std::ssize(state) < options_.order) state.push_back(at::zeros(sizes, x.options()));
  return state;
}

Tensor OdeBlock::start(const Tensor& x) const {
  return at::cat(state_of(x), 1);
}

// Backward may outlive the block, so the field holds what it needs.
OdeFieldOf OdeBlock::field_of(size_t piece, const Loss& loss) const {
  const bool needs_depth = pieces_[piece].reads_depth || options_.concat || loss;
  const bool has_own_depth = options_.depth_kind != OdeDepth::constant;
  return [needs_depth, has_own_depth, loss, part = pieces_[piece], order = options_.order, concat = options_.concat,
          data_control = options_.data_control,
          direction = options_.depth < 0 ? -1 : 1](double t, const OdeState& state, const std::vector<Tensor>& given) {
    const Tensor own_depth = has_own_depth ? given.back() : Tensor();
    Tensor s;
    if (own_depth.defined()) {
      s = own_depth * t;
    } else if (needs_depth) {
      s = at::scalar_tensor(t, state[0].options());
    }
    const OdeState z(state.begin(), state.begin() + order);
    std::vector<Tensor> inputs = z;
    if (data_control) inputs.push_back(given[0]);
    if (concat) append_depth(inputs, s);
    OdeState slope(z.begin() + 1, z.end());
    slope.push_back(part.forward(s, inputs.size() == 1 ? inputs[0] : at::cat(inputs, 1)));
    if (own_depth.defined()) {
      for (Tensor& one : slope) one = one * beside(own_depth, one);
    }
    if (loss) {
      const Tensor l = loss(s, order == 1 ? z[0] : at::cat(z, 1));
      slope.push_back(own_depth.defined() ? l * own_depth.abs() : l * direction);
    }
    return slope;
  };
}

std::vector<Tensor> OdeBlock::inputs_of(const Tensor& x, const Tensor& own_depth) const {
  std::vector<Tensor> list;
  if (options_.data_control) list.push_back(x);
  if (own_depth.defined()) list.push_back(own_depth);
  return list;
}

std::vector<Tensor> OdeBlock::theta() const {
  std::vector<Tensor> list;
  for (const OdePart& piece : pieces_) {
    for (const Tensor& parameter : piece.module->parameters()) list.push_back(parameter);
  }
  return list;
}

Tensor OdeBlock::output_of(const OdeState& z) const {
  if (!options_.whole) return options_.added > 0 ? z[0].narrow(1, 0, options_.channels) : z[0];
  return options_.order == 1 ? z[0] : at::cat(at::TensorList(z).slice(0, static_cast<size_t>(options_.order)), 1);
}

Tensor OdeBlock::in_type(const Tensor& x) const {
  for (const Tensor& parameter : parameters()) return x.to(parameter.scalar_type());
  return x;
}

std::pair<double, double> OdeBlock::ends(size_t piece) const {
  const double all = options_.depth_kind == OdeDepth::constant ? options_.depth : 1;
  const auto count = static_cast<double>(pieces_.size()), p = static_cast<double>(piece);
  return {all * p / count, all * (p + 1) / count};
}

std::pair<Tensor, Tensor> OdeBlock::solve(const Tensor& given, const Loss& loss) const {
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  *counts_ = {};
  const Tensor x = in_type(given), own = own_depth(x);
  OdeState z = state_of(x);
  if (loss) z.push_back(at::zeros({x.size(0)}, x.options()));
  OdeOptions solver = options_.solver;
  solver.steps /= std::ssize(pieces_);
  const std::vector<Tensor> inputs = inputs_of(x, own);
  for (size_t piece = 0; piece < pieces_.size(); ++piece) {
    const auto [from, to] = ends(piece);
    z = ode_solve(field_of(piece, loss), inputs, z, from, to, solver, options_.gradient, theta(), counts_);
  }
  return {output_of(z).to(given.scalar_type()), loss ? z.back() : Tensor()};
}

std::vector<Tensor> OdeBlock::path(const Tensor& given, int64_t steps) const {
  TORCH_CHECK(steps >= 1, "OdeBlock: a path must have at least 1 step, got ", steps);
  const at::NoGradGuard guard;
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  const Tensor x = in_type(given), own = own_depth(x);
  const std::vector<Tensor> inputs = inputs_of(x, own);
  const auto count = std::ssize(pieces_);
  OdeOptions solver;
  solver.steps = (steps + count - 1) / count;
  std::vector<Tensor> states;
  OdeState z = state_of(x);
  OdeCount evaluations;
  const auto watch = [&](const OdeStep& step) { states.push_back(at::cat(step.z, 1)); };
  for (size_t piece = 0; piece < pieces_.size(); ++piece) {
    const auto [from, to] = ends(piece);
    const OdeFieldOf field = field_of(piece, {});
    const OdeField alone = [&](double t, const OdeState& at) { return field(t, at, inputs); };
    z = ode_integrate(alone, z, from, to, solver, evaluations, watch);
  }
  states.push_back(at::cat(z, 1));
  return states;
}

}  // namespace loci
