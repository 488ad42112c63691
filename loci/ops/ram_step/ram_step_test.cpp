// Legend: N samples, R registers, M values and cells, O logits.
#include "loci/ops/ram_step/ram_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/ops/ram_step/ram_step_definition.h"
#include "tests/op_harness.h"

namespace loci::ram_step_test {
namespace {

using harness::Tensor;

RamModule times() {
  return {"TIMES", 2, RamModule::Role::pure, [](uint32_t a, uint32_t b, uint32_t M) -> uint32_t { return a * b % M; }};
}

RamModule half() {
  return {"HALF", 1, RamModule::Role::pure, [](uint32_t a, uint32_t, uint32_t) -> uint32_t { return a / 2; }};
}

struct Case {
  Tensor logits, registers, tape;
  RamStepOptions options;
};

Case make_case(int64_t N, int64_t R, int64_t M, int64_t repeats, at::ScalarType type, bool distributions = true) {
  std::vector<RamModule> modules = standard_modules();
  modules.insert(modules.begin() + 5, {times(), half()});
  Case c;
  c.options = ram_step_options(R, modules, repeats, M);
  const auto options = torch::dtype(torch::kDouble);
  c.logits = (2 * torch::randn({N, c.options.logits()}, options)).to(type);
  c.registers = torch::randn({N, R, M}, options);
  c.tape = torch::randn({N, M, M}, options);
  if (distributions) {
    c.registers = (2 * c.registers).softmax(-1);
    c.tape = (2 * c.tape).softmax(-1);
  }
  c.registers = c.registers.to(type);
  c.tape = c.tape.to(type);
  return c;
}

// New registers and tape, and the gradients of the three inputs.
std::vector<Tensor> results(const Case& c) {
  const std::vector<Tensor> leaves = {c.logits.detach().clone().requires_grad_(),
                                      c.registers.detach().clone().requires_grad_(),
                                      c.tape.detach().clone().requires_grad_()};
  const auto [registers, tape] = ram_step(leaves[0], leaves[1], leaves[2], c.options);
  torch::manual_seed(5);
  const Tensor slope1 = torch::randn_like(registers), slope2 = torch::randn_like(tape);
  std::vector<Tensor> out = {registers.detach(), tape.detach()};
  for (const Tensor& g : torch::autograd::grad({registers, tape}, leaves, {slope1, slope2})) out.push_back(g);
  return out;
}

double difference(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0) return 0;
  return ((a - b).abs().max() / b.abs().max().clamp_min(1)).item<double>();
}

TEST(RamStep, GradientEqualsFiniteDifferences) {
  torch::manual_seed(3);
  Case c = make_case(2, 2, 4, 1, torch::kDouble);
  c.options.renormalise = false;
  for (Tensor* leaf : {&c.logits, &c.registers, &c.tape}) leaf->requires_grad_();
  harness::expect_finite_differences(
      [&](const std::vector<Tensor>& x) {
        const auto [registers, tape] = ram_step(x[0], x[1], x[2], c.options);
        return torch::cat({registers.flatten(), tape.flatten()});
      },
      {c.logits, c.registers, c.tape});
}

TEST(RamStep, ClipsTheGradientsOfActivations) {
  torch::manual_seed(4);
  Case c = make_case(5, 3, 8, 1, torch::kDouble);
  const auto open = results(c);
  for (const double clip : {1e6, 1e-1, 1e-3}) {
    c.options.clip = clip;
    const auto clipped = results(c);
    for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(harness::same_bits(clipped[i], open[i])) << i << " clip " << clip;
    for (size_t i = 2; i < 5; ++i)
      EXPECT_EQ(clip == 1e6, difference(clipped[i], open[i]) == 0) << i << " clip " << clip;
  }
}

TEST(RamStep, ASecondDerivativeIsRefusedByName) {
  Case c = make_case(2, 2, 4, 1, torch::kDouble);
  c.logits.requires_grad_();
  const auto [registers, tape] = ram_step(c.logits, c.registers, c.tape, c.options);
  const Tensor first = torch::autograd::grad({registers.square().sum()}, {c.logits}, {}, true, true)[0];
  EXPECT_THAT(harness::message_of([&] { first.sum().backward(); }),
              testing::HasSubstr("ram_step: a second derivative is not implemented"));
}

TEST(RamStep, KeepsDistributionsOverManySteps) {
  for (const auto type : {torch::kFloat, torch::kDouble}) {
    torch::manual_seed(6);
    Case c = make_case(4, 4, 13, 1, type);
    for (int step = 0; step < 100; ++step) {
      std::tie(c.registers, c.tape) = ram_step(c.logits, c.registers, c.tape, c.options);
    }
    const double bound = type == torch::kFloat ? 1e-5 : 1e-13;
    EXPECT_LE((c.registers.sum(-1) - 1).abs().max().item<double>(), bound);
    EXPECT_LE((c.tape.sum(-1) - 1).abs().max().item<double>(), bound);
  }
}

TEST(RamStep, RegistersChangeTogetherAndReadSeesAnEarlierWrite) {
  // One-hot logits: r0 takes r1 and r1 takes r0; the second READ of two repeats sees the first WRITE.
  const int64_t R = 2, M = 5;
  RamStepOptions options = ram_step_options(R, {standard_modules()[0], standard_modules()[13]}, 2, M);
  Tensor logits = torch::full({1, options.logits()}, -1000.0, torch::kDouble);
  int64_t offset = 0;
  const auto choose = [&](int64_t length, int64_t source) {
    logits[0][offset + source] = 0;
    offset += length;
  };
  choose(2, 0);                // READ r0
  choose(3, 0), choose(3, 1);  // WRITE(r0, r1)
  choose(4, 0);                // READ r0 again
  choose(5, 1), choose(5, 4);  // WRITE(r1, the second READ)
  choose(6, 1), choose(6, 0);  // r0 = r1, r1 = r0
  ASSERT_EQ(offset, options.logits());
  const auto one_hot = [&](std::vector<int64_t> values) {
    return torch::one_hot(torch::tensor(values), M).to(torch::kDouble).unsqueeze(0);
  };
  const auto [registers, tape] = ram_step(logits, one_hot({2, 3}), one_hot({0, 1, 2, 4, 4}), options);
  EXPECT_LE(difference(registers, one_hot({3, 2})), 1e-300);
  EXPECT_LE(difference(tape, one_hot({0, 1, 3, 3, 4})), 1e-300);
}

TEST(RamStep, TakesStridedInputAndNoSamples) {
  torch::manual_seed(7);
  const Case c = make_case(3, 2, 5, 1, torch::kFloat);
  const auto [registers, tape] = ram_step(c.logits, c.registers, c.tape, c.options);
  const auto [registers2, tape2] =
      ram_step(harness::strided(c.logits), harness::strided(c.registers), harness::strided(c.tape), c.options);
  EXPECT_TRUE(harness::same_bits(registers, registers2));
  EXPECT_TRUE(harness::same_bits(tape, tape2));
  const auto [none, no_tape] =
      ram_step(c.logits.narrow(0, 0, 0), c.registers.narrow(0, 0, 0), c.tape.narrow(0, 0, 0), c.options);
  EXPECT_EQ(none.sizes(), torch::IntArrayRef({0, 2, 5}));
  EXPECT_EQ(no_tape.sizes(), torch::IntArrayRef({0, 5, 5}));
}

TEST(RamStep, RefusesBadInputWithWhoWhatAndGot) {
  const Case c = make_case(2, 2, 5, 1, torch::kFloat);
  const auto message = [&](const Case& bad) {
    return harness::message_of([&] { ram_step(bad.logits, bad.registers, bad.tape, bad.options); });
  };
  Case bad = c;
  bad.tape = c.tape.narrow(1, 0, 4);
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_step: tape must be [N, M, M], got [2, 4, 5]"));
  bad = c;
  bad.logits = c.logits.narrow(1, 1, 9);
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_step: logits must be [2, "));
  bad = c;
  bad.registers = c.registers.to(torch::kDouble);
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_step: logits and registers must be Float as tape is"));
  bad = c;
  bad.options.operation[0] = 99;
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_step: module 0 must be 0 .. 15, got 99"));
  bad = c;
  bad.options.operands[1] = 2;
  EXPECT_THAT(message(bad), testing::HasSubstr("ram_step: operands of module 1 must be 0, got 2"));
}

}  // namespace
}  // namespace loci::ram_step_test
