// Legend: B batch, D numbers of a point, C channels, h w positions of a map.
#include "loci/models/ode_net.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kFieldEdge = 3;      // of convolutions
constexpr int64_t kGuessedSteps = 10;  // of a pair

// The field f(s, z).
struct ChainField : torch::nn::Module {
  ChainField(const std::string& name, int64_t inputs, const OdeNetOptions& options, uint64_t seed)
      : Module("ChainField"), activation(options.activation) {
    for (const int64_t outputs : options.field_widths()) {
      const std::string layer = fmt::format("layer{}", linear.size() + convolutions.size());
      const std::string full = name + "." + layer;
      if (options.images) {
        convolutions.push_back(register_module(
            layer, std::make_shared<DepthConv2d>(full, inputs, outputs, kFieldEdge, options.depth_terms(), seed)));
      } else {
        linear.push_back(
            register_module(layer, std::make_shared<DepthLinear>(full, inputs, outputs, options.depth_terms(), seed)));
      }
      inputs = outputs;
    }
  }

  Tensor forward(const Tensor& s, const Tensor& z) const {
    Tensor x = z;
    const size_t layers = linear.size() + convolutions.size();
    for (size_t i = 0; i < layers; ++i) {
      x = linear.empty() ? convolutions[i]->forward(s, x) : linear[i]->forward(s, x);
      if (i + 1 < layers) x = activation == FieldActivation::tanh ? x.tanh() : at::softplus(x);
    }
    return x;
  }

  FieldActivation activation;
  std::vector<std::shared_ptr<DepthLinear>> linear;  // one of two
  std::vector<std::shared_ptr<DepthConv2d>> convolutions;
};

}  // namespace

void OdeNetOptions::fields(ConfigFields& f) {
  f.field("hidden", hidden, "outputs of the field's hidden layers, of images channels",
          {.minimum = 1, .maximum = 4096});
  f.choice<FieldActivation>("activation", activation, "between the field's layers",
                            {{"tanh", FieldActivation::tanh}, {"softplus", FieldActivation::softplus}});
  f.choice<DepthVariance>(
      "variance", variance,
      "how the field depends on the depth: not; as an input; weights as sums of a basis, or for each piece",
      {{"constant", DepthVariance::constant},
       {"concat", DepthVariance::concat},
       {"fourier", DepthVariance::fourier},
       {"chebyshev", DepthVariance::chebyshev},
       {"pieces", DepthVariance::pieces}});
  const bool basis = variance == DepthVariance::fourier || variance == DepthVariance::chebyshev;
  f.when(basis, "model.variance is \"fourier\" or \"chebyshev\"",
         [&] { f.field("terms", terms, "terms of the basis", {.minimum = 1, .maximum = 1000}); });
  f.when(variance == DepthVariance::pieces, "model.variance is \"pieces\"",
         [&] { f.field("pieces", pieces, "pieces of the depth, with weights each", {.minimum = 1, .maximum = 1000}); });
  block.fields(f);
  f.field("input_pool", input_pool, "edge of the squares of pixels whose mean is read; points: without effect",
          {.minimum = 1, .maximum = 1024});
  f.field("output_pool", output_pool, "edge of the squares whose mean the last layer reads; points: without effect",
          {.minimum = 1, .maximum = 1024});
}

OdeBlockOptions OdeNetOptions::block_of_data() const {
  OdeBlockOptions result = block;
  result.channels = channels;
  result.concat = variance == DepthVariance::concat;
  result.whole = classes > 0;
  return result;
}

DepthTerms OdeNetOptions::depth_terms() const {
  const bool basis = variance == DepthVariance::fourier || variance == DepthVariance::chebyshev;
  return {variance == DepthVariance::chebyshev ? DepthBasis::chebyshev : DepthBasis::fourier, basis ? terms : 1,
          block.depth};
}

std::vector<int64_t> OdeNetOptions::field_widths() const {
  std::vector<int64_t> widths = hidden;
  widths.push_back(block_of_data().part_channels());
  return widths;
}

void OdeNetOptions::check() const {
  block_of_data().check();
  if (!images) return;
  const int64_t edge = std::min(map_height(), map_width());
  if (edge < output_pool) {
    fail(ExitCode::usage, "config", fmt::format("model.input_pool must leave maps of at least {0} x {0}", output_pool),
         fmt::format("{} x {}", map_height(), map_width()));
  }
}

int64_t OdeNetOptions::head_inputs() const {
  const int64_t places = images ? (map_height() / output_pool) * (map_width() / output_pool) : 1;
  return block_of_data().state_channels() * places;
}

int64_t OdeNetOptions::parameters() const {
  const OdeBlockOptions of_block = block_of_data();
  const int64_t taps = images ? kFieldEdge * kFieldEdge : 1;
  int64_t field = 0, inputs = of_block.field_inputs();
  for (const int64_t outputs : field_widths()) {
    field += depth_terms().terms * outputs * (inputs * taps + 1);
    inputs = outputs;
  }
  int64_t count = field * (variance == DepthVariance::pieces ? pieces : 1);
  if (of_block.start == OdeStart::learned) count += of_block.state_channels() * (channels + 1);
  if (of_block.depth_kind != OdeDepth::constant) count += of_block.depth_width * (channels + 2) + 1;
  return count + classes * (head_inputs() + 1);
}

int64_t OdeNetOptions::multiply_adds() const {
  const OdeTableau& method = ode_tableau(block.solver.method);
  if (method.estimates()) return 0;
  const int64_t taps = images ? kFieldEdge * kFieldEdge : 1, places = map_height() * map_width();
  int64_t field = 0, inputs = block_of_data().field_inputs();
  for (const int64_t outputs : field_widths()) {
    field += places * outputs * inputs * taps;
    inputs = outputs;
  }
  return field * block.solver.steps * std::ssize(method.c) + classes * head_inputs();
}

double OdeNetOptions::kept_numbers() const {
  const OdeTableau& method = ode_tableau(block.solver.method);
  double evaluation = static_cast<double>(block_of_data().field_inputs() + 2 * block_of_data().state_channels());
  for (const int64_t outputs : field_widths()) evaluation += 2 * static_cast<double>(outputs);
  const auto places = static_cast<double>(map_height() * map_width());
  const int64_t steps = method.estimates() ? kGuessedSteps : block.solver.steps;
  const bool all = block.gradient.kind == OdeGradient::steps;
  return evaluation * places * static_cast<double>((all ? steps : 1) * std::ssize(method.c));
}

OdeNet::OdeNet(const OdeNetOptions& options, uint64_t seed) : Module("OdeNet"), options_(options) {
  options_.check();
  const OdeBlockOptions of_block = options_.block_of_data();
  std::vector<OdePart> fields;
  const int64_t count = options_.variance == DepthVariance::pieces ? options_.pieces : 1;
  for (int64_t i = 0; i < count; ++i) {
    const std::string name = count == 1 ? "block.field" : fmt::format("block.field{}", i);
    fields.push_back(OdePart::of(std::make_shared<ChainField>(name, of_block.field_inputs(), options_, seed)));
  }
  block_ = register_module("block", std::make_shared<OdeBlock>(std::move(fields), of_block, seed, "block"));
  if (options_.classes == 0) return;
  const int64_t inputs = options_.head_inputs();
  const double deviation = 1 / std::sqrt(static_cast<double>(inputs));
  head_weight_ =
      register_parameter("head_weight", normal_start(seed, "head_weight", {options_.classes, inputs}, deviation));
  head_bias_ = register_parameter("head_bias", at::zeros({options_.classes}));
}

Tensor OdeNet::block_input(const Tensor& x) const {
  const bool fits =
      options_.images ? x.dim() == 4 && x.size(2) == options_.height && x.size(3) == options_.width : x.dim() == 2;
  TORCH_CHECK(fits && x.size(1) == options_.channels, "OdeNet: x must be [B, ", options_.channels,
              options_.images ? fmt::format(", {}, {}]", options_.height, options_.width) : "]", ", got ", x.sizes());
  return options_.images && options_.input_pool > 1 ? at::avg_pool2d(x, options_.input_pool) : x;
}

Tensor OdeNet::forward(const Tensor& x) const {
  Tensor y = block_->forward(block_input(x));
  if (options_.classes == 0) return y;
  if (options_.images) y = at::avg_pool2d(y, options_.output_pool).flatten(1);
  return at::linear(y, head_weight_, head_bias_);
}

std::vector<NamedParameter> OdeNet::dense_parameters() const {
  std::vector<NamedParameter> list;
  for (const auto& parameter : named_parameters()) {
    const bool bias = parameter.key().find("bias") != std::string::npos;
    list.push_back({.name = parameter.key(), .value = parameter.value(), .decay = !bias});
  }
  return list;
}

}  // namespace loci
