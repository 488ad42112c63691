// Legend: S seeds, B samples, R registers, M values and cells, O logits of a circuit, W width, P parameters.
#include "loci/nn/machine/neural_ram.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <limits>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/random.h"

namespace loci {

void NeuralRamOptions::fields(ConfigFields& f) {
  f.field("registers", registers, "registers of the machine", {.minimum = 1, .maximum = kMostRegisters});
  f.field("repeats", repeats, "repetitions of the module list in a step", {.minimum = 1, .maximum = 64});
  f.choice("controller", controller, "network that chooses the circuit of a step", {"mlp", "lstm"});
  f.field("width", width, "width of the controller's hidden layers", {.minimum = 1, .maximum = 4096});
  f.field("output_scale", output_scale, "factor of the output layer's first weights", {.minimum = 0});
  f.choice("loss", loss, "loss of the mixture over stopping times, or the expected loss over them",
           {"mixture", "expected"});
  f.field("floor", floor, "least probability that the loss takes a logarithm of", {.minimum = 1e-30, .maximum = 0.5});
  f.field("clip_activations", clip_activations, "largest gradient of an activation; 0: not clipped", {.minimum = 0});
}

namespace {

RamUnrollOptions unroll_options_of(const NeuralRamOptions& options, int64_t M) {
  RamUnrollOptions result;
  result.machine = ram_step_options(options.registers, options.modules, options.repeats, M);
  if (options.clip_activations > 0) result.machine.clip = options.clip_activations;
  result.lstm = options.controller == "lstm";
  result.width = options.width;
  result.mixture = options.loss == "mixture";
  result.floor = options.floor;
  return result;
}

// Outputs and inputs of the three layers.
struct LayerSize {
  int64_t outputs, inputs;
};
std::vector<LayerSize> layer_sizes(const RamUnrollOptions& options) {
  const int64_t R = options.machine.registers, W = options.width;
  return {{W, R}, options.lstm ? LayerSize{4 * W, 2 * W} : LayerSize{W, W}, {options.machine.logits() + 1, W}};
}

}  // namespace

int64_t neural_ram_parameters(const NeuralRamOptions& options) {
  return unroll_options_of(options, 3).parameters();
}

NeuralRam::NeuralRam(NeuralRamOptions options, std::vector<uint64_t> seeds)
    : options_(std::move(options)), seeds_(std::move(seeds)) {
  const RamUnrollOptions sizes = unroll_options(3);
  const auto S = static_cast<int64_t>(seeds_.size());
  at::Tensor start = at::empty({S, sizes.parameters()}, at::kFloat);
  for (int64_t s = 0; s < S; ++s) {
    const CounterRandom random(seeds_[static_cast<size_t>(s)], "neural_ram.start");
    float* at = start.mutable_data_ptr<float>() + s * sizes.parameters();
    uint64_t position = 0;
    const auto layers = layer_sizes(sizes);
    for (size_t l = 0; l < layers.size(); ++l) {
      const bool output = l + 1 == layers.size();
      const auto fan_in = static_cast<double>(layers[l].inputs);
      const double std = output ? options_.output_scale / std::sqrt(fan_in) : std::sqrt(2 / fan_in);
      for (int64_t i = 0; i < layers[l].outputs * layers[l].inputs; ++i) {
        *at++ = static_cast<float>(std * random.normal(position++));
      }
      for (int64_t i = 0; i < layers[l].outputs; ++i) {
        *at++ = static_cast<float>(output ? 0 : 0.01 * random.normal(position++));
      }
    }
  }
  parameters_ = register_parameter("controllers", start);
}

RamUnrollOptions NeuralRam::unroll_options(int64_t M) const {
  return unroll_options_of(options_, M);
}

RamUnrollOutput NeuralRam::run(const RamUnrollInput& input, bool with_gradient, const std::vector<int64_t>& which) {
  const at::Tensor chosen = which.empty() ? parameters_ : parameters_.index_select(0, at::tensor(which, at::kLong));
  return ram_unroll(chosen, input, unroll_options(input.tape.size(-1)), with_gradient);
}

NeuralRamController::NeuralRamController(const NeuralRam& machine, int64_t seed_index)
    : registers_(machine.options().registers),
      width_(machine.options().width),
      lstm_(machine.options().controller == "lstm") {
  const at::Tensor row = machine.parameters_of_seeds()[seed_index].contiguous();
  parameters_.assign(row.const_data_ptr<float>(), row.const_data_ptr<float>() + row.numel());
  outputs_ = layer_sizes(machine.unroll_options(3)).back().outputs;
  start();
}

void NeuralRamController::start() {
  hidden_.assign(static_cast<size_t>(width_), 0);
  cell_ = hidden_;
}

std::vector<float> NeuralRamController::operator()(const std::vector<float>& x) {
  const float* at = parameters_.data();
  const auto layer = [&at](const std::vector<float>& in, int64_t outputs) {
    std::vector<float> out(static_cast<size_t>(outputs));
    const float* bias = at + outputs * std::ssize(in);
    for (size_t j = 0; j < out.size(); ++j) {
      double sum = bias[j];
      for (const float value : in) sum += static_cast<double>(*at++) * value;
      out[j] = static_cast<float>(sum);
    }
    at += outputs;
    return out;
  };
  const auto rectified = [](std::vector<float> y) {
    for (float& value : y) value = std::max(value, 0.0F);
    return y;
  };
  const auto squash = [](float v) { return 1 / (1 + std::exp(-v)); };
  std::vector<float> h = rectified(layer(x, width_));
  if (!lstm_) {
    h = rectified(layer(h, width_));
  } else {
    h.insert(h.end(), hidden_.begin(), hidden_.end());
    const std::vector<float> gate = layer(h, 4 * width_);
    const auto W = static_cast<size_t>(width_);
    for (size_t w = 0; w < W; ++w) {
      cell_[w] = squash(gate[W + w]) * cell_[w] + squash(gate[w]) * std::tanh(gate[2 * W + w]);
      hidden_[w] = squash(gate[3 * W + w]) * std::tanh(cell_[w]);
    }
    h = hidden_;
  }
  return layer(h, outputs_);
}

}  // namespace loci
