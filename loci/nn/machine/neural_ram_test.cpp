#include "loci/nn/machine/neural_ram.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/ops/ram_unroll/ram_unroll_definition.h"
#include "tests/op_harness.h"

namespace loci {
namespace {

RamUnrollInput instances(int64_t S, int64_t B, int64_t M, int64_t T) {
  torch::manual_seed(3);
  return {torch::randint(M, {S, B, M}, torch::kInt), torch::randint(M, {S, B, M}, torch::kInt), torch::ones({S, B, M}),
          torch::full({S}, T, torch::kLong), torch::full({S}, 0.1)};
}

TEST(NeuralRam, ASeedStartsTheSameAloneAndBesideOthers) {
  NeuralRam many(NeuralRamOptions{}, {3, 4, 5});
  NeuralRam one(NeuralRamOptions{}, {4});
  EXPECT_TRUE(torch::equal(many.parameters_of_seeds()[1], one.parameters_of_seeds()[0]));
  EXPECT_FALSE(torch::equal(many.parameters_of_seeds()[0], many.parameters_of_seeds()[1]));
  NeuralRamOptions four;
  four.registers = 4;
  EXPECT_EQ(NeuralRam(four, {4}).parameter_count(), 24500);
}

TEST(NeuralRam, RunsOnTapesOfAnySizeWithTheSameParameters) {
  NeuralRam machine(NeuralRamOptions{}, {1, 2});
  for (const int64_t M : {3, 8, 21}) {
    EXPECT_TRUE(machine.run(instances(2, 5, M, 4), true).objective.isfinite().all().item<bool>());
  }
}

TEST(NeuralRam, RunsChosenSeeds) {
  NeuralRam machine(NeuralRamOptions{}, {1, 2, 3});
  const RamUnrollInput input = instances(3, 20, 8, 5);
  const auto all = machine.run(input, true);
  const std::vector<int64_t> which = {2, 0};
  const at::Tensor rows = torch::tensor(which);
  const auto some = machine.run(
      {input.tape.index_select(0, rows), input.target.index_select(0, rows), input.cell_weight.index_select(0, rows),
       input.steps.index_select(0, rows), input.bonus.index_select(0, rows)},
      true, which);
  EXPECT_TRUE(harness::same_bits(some.gradient, all.gradient.index_select(0, rows)));
}

// The example of the header: a module of one's own by its integer form, here in the place of DEC.
TEST(NeuralRam, AUsersModuleInPlaceOfAStandardOneGivesTheSameMachine) {
  NeuralRamOptions own;
  own.modules[7] = {"BEFORE", 1, RamModule::Role::pure,
                    [](uint32_t a, uint32_t, uint32_t M) -> uint32_t { return (a + M - 1) % M; }};
  NeuralRam standard(NeuralRamOptions{}, {1}), mine(own, {1});
  const RamUnrollInput input = instances(1, 10, 8, 5);
  const auto wanted = standard.run(input, true), got = mine.run(input, true);
  EXPECT_LE((got.loss - wanted.loss).abs().max().item<double>(), 1e-4 * wanted.loss.abs().max().item<double>());
  EXPECT_LE((got.gradient - wanted.gradient).abs().max().item<double>(),
            1e-3 * wanted.gradient.abs().max().item<double>());
}

// The controller that programs are read from is the one that was trained: the unroll's definition over one step with
// all registers zero has its logits.
TEST(NeuralRam, TheControllerStepByStepIsTheTrainedOne) {
  for (const char* kind : {"mlp", "lstm"}) {
    NeuralRamOptions options;
    options.controller = kind;
    options.registers = 3;
    options.width = 7;
    NeuralRam machine(options, {5, 6});
    const auto layers = machine.unroll_options(5);
    const int64_t O = layers.machine.logits() + 1, W = 7, R = 3;
    const at::Tensor p = machine.parameters_of_seeds()[1].detach();
    NeuralRamController controller(machine, 1);
    at::Tensor hidden = torch::zeros({W}), cell = torch::zeros({W});
    for (const std::vector<float>& x : {std::vector<float>{1, 0, 1}, {0, 0, 1}}) {
      at::Tensor h = (p.narrow(0, 0, W * R).reshape({W, R}).mv(torch::tensor(x)) + p.narrow(0, W * R, W)).relu();
      int64_t at = W * (R + 1);
      if (options.controller == "mlp") {
        h = (p.narrow(0, at, W * W).reshape({W, W}).mv(h) + p.narrow(0, at + W * W, W)).relu();
        at += W * (W + 1);
      } else {
        const at::Tensor gate = p.narrow(0, at, 8 * W * W).reshape({4 * W, 2 * W}).mv(torch::cat({h, hidden})) +
                                p.narrow(0, at + 8 * W * W, 4 * W);
        const auto g = gate.chunk(4);
        cell = g[1].sigmoid() * cell + g[0].sigmoid() * g[2].tanh();
        h = hidden = g[3].sigmoid() * cell.tanh();
        at += 4 * W * (2 * W + 1);
      }
      const at::Tensor wanted = p.narrow(0, at, O * W).reshape({O, W}).mv(h) + p.narrow(0, at + O * W, O);
      const std::vector<float> got = controller(x);
      ASSERT_EQ(std::ssize(got), O);
      EXPECT_LE((torch::tensor(got) - wanted).abs().max().item<double>(), 1e-5);
    }
  }
}

}  // namespace
}  // namespace loci
