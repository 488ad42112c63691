// Neural random-access machines: independent seeds side by side, each a controller that drives registers, modules and a
// tape (Kurach, Andrychowicz, Sutskever, ICLR 2016, arXiv 1511.06392). loci/ops/ram_unroll says what a run computes.
//
// Legend: S seeds, B samples, R registers, Q modules, M values and cells, O logits of a circuit, W width, P parameters.
//
// The parameters do not depend on M: a machine runs on tapes of any size. A module of one's own needs its integer form
// alone; the kernels take its lift to distributions from a table:
//
//   NeuralRamOptions options;
//   options.modules.push_back({"HALF", 1, RamModule::Role::pure,
//                              [](uint32_t a, uint32_t, uint32_t) { return a / 2; }, "{a}/2", "a / 2"});
//   NeuralRam machine(options, {0, 1, 2, 3});   // four seeds
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/ops/ram_unroll/ram_unroll.h"

namespace loci {

// A discrete machine is a table of 2^registers circuits.
constexpr int64_t kMostRegisters = 14;

// [model]
struct NeuralRamOptions {
  int64_t registers = 8;
  int64_t repeats = 1;             // of the module list in a step
  std::string controller = "mlp";  // "mlp" | "lstm"
  int64_t width = 64;
  double output_scale = 1;                              // of the output layer's start
  std::string loss = "mixture";                         // "mixture" | "expected"
  double floor = 1e-6;                                  // below which a probability counts as this much
  double clip_activations = 1000;                       // C1; 0: off
  std::vector<RamModule> modules = standard_modules();  // not part of a recipe

  void fields(ConfigFields& f);
  int64_t modules_in_step() const { return repeats * static_cast<int64_t>(modules.size()); }  // Q
};

class NeuralRam : public torch::nn::Module {
 public:
  // One controller a seed. Hidden layers start as He's, hidden biases as N(0, 0.01^2), the output layer as N(0, 1 / W).
  NeuralRam(NeuralRamOptions options, std::vector<uint64_t> seeds);

  // All seeds, or those in `which` (input's S is theirs).
  RamUnrollOutput run(const RamUnrollInput& input, bool with_gradient, const std::vector<int64_t>& which = {});

  const NeuralRamOptions& options() const { return options_; }
  const std::vector<uint64_t>& seeds() const { return seeds_; }
  int64_t parameter_count() const { return parameters_.size(1); }  // P
  at::Tensor& parameters_of_seeds() { return parameters_; }        // [S, P]
  const at::Tensor& parameters_of_seeds() const { return parameters_; }
  // What the operator is asked for on tapes of M cells.
  RamUnrollOptions unroll_options(int64_t M) const;

 private:
  NeuralRamOptions options_;
  std::vector<uint64_t> seeds_;
  at::Tensor parameters_;  // [S, P]
};

// The same controller, one step after another, for one seed without gradients: x [R] to the logits [O + 1].
class NeuralRamController {
 public:
  NeuralRamController(const NeuralRam& machine, int64_t seed_index);
  void start();  // forgets, before a run
  std::vector<float> operator()(const std::vector<float>& x);

 private:
  int64_t registers_, width_, outputs_;
  bool lstm_;
  std::vector<float> parameters_, hidden_, cell_;
};

// Parameters of a controller, from options alone.
int64_t neural_ram_parameters(const NeuralRamOptions& options);

}  // namespace loci
