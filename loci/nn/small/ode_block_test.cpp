#include "loci/nn/small/ode_block.h"

#include <ATen/autocast_mode.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <vector>

#include "loci/base/check.h"
#include "loci/nn/small/depth_layers.h"
#include "tests/op_harness.h"

namespace loci {
namespace {

using torch::Tensor;

// A field of a formula.
struct Formula : torch::nn::Module {
  explicit Formula(std::function<Tensor(const Tensor&)> f) : f_(std::move(f)) {}
  Tensor forward(const Tensor& z) { return f_(z); }
  std::function<Tensor(const Tensor&)> f_;
};
struct DepthFormula : torch::nn::Module {
  explicit DepthFormula(std::function<Tensor(const Tensor&, const Tensor&)> f) : f_(std::move(f)) {}
  Tensor forward(const Tensor& s, const Tensor& z) { return f_(s, z); }
  std::function<Tensor(const Tensor&, const Tensor&)> f_;
};

std::shared_ptr<Formula> formula(std::function<Tensor(const Tensor&)> f) {
  return std::make_shared<Formula>(std::move(f));
}

OdeBlockOptions options_of(int64_t channels, double depth = 1) {
  OdeBlockOptions options;
  options.channels = channels;
  options.depth = depth;
  return options;
}

Tensor drawn(const std::vector<int64_t>& sizes) {
  return torch::randn(sizes, torch::kDouble);
}

void expect_near(const Tensor& got, const Tensor& expected, double error = 1e-10) {
  ASSERT_EQ(got.sizes(), expected.sizes());
  EXPECT_LT((got - expected).abs().max().item<double>(), error);
}

// Of any module that torch has.
TEST(OdeBlock, IsTheSolutionOfItsModule) {
  torch::manual_seed(0);
  const auto linear = torch::nn::Linear(3, 3).ptr();
  const auto sequence =
      torch::nn::Sequential(torch::nn::Linear(3, 5), torch::nn::Tanh(), torch::nn::Linear(5, 3)).ptr();
  OdeBlock block(linear, options_of(3, 2)), sequential(sequence, options_of(3, -1));
  const Tensor x = torch::randn({4, 3});
  OdeCount count;
  const OdeField by_hand = [&](double, const OdeState& z) { return OdeState{linear->forward(z[0])}; };
  EXPECT_TRUE(block.forward(x).equal(ode_integrate(by_hand, {x}, 0, 2, {}, count)[0]));
  const OdeField backward = [&](double, const OdeState& z) { return OdeState{sequence->forward(z[0])}; };
  EXPECT_TRUE(sequential.forward(x).equal(ode_integrate(backward, {x}, 0, -1, {}, count)[0]));
  EXPECT_EQ(block.counts().forward.evaluations, 40);
  EXPECT_EQ(block.parameters().size(), 2);
}

TEST(OdeBlock, ConcatGivesTheFieldTheDepthAsAChannel) {
  OdeBlockOptions options = options_of(2, 1.5);
  options.concat = true;
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{4, 2}, {4, 2, 3, 5}}) {
    const Tensor x = drawn(sizes);
    OdeBlock block(formula([](const Tensor& z) {
                     EXPECT_EQ(z.size(1), 3);
                     return z.narrow(1, 2, 1).expand_as(z.narrow(1, 0, 2)) * 2;  // z' = 2 s
                   }),
                   options);
    expect_near(block.forward(x), x + 1.5 * 1.5);
  }
}

TEST(OdeBlock, FieldsMayReadTheDepth) {
  OdeBlock block(std::make_shared<DepthFormula>([](const Tensor& s, const Tensor& z) {
                   EXPECT_EQ(s.dim(), 0);
                   return z * 0 + 3 * s * s;
                 }),
                 options_of(1, 2));
  const Tensor x = drawn({3, 1});
  expect_near(block.forward(x), x + 8);
}

TEST(OdeBlock, PiecesHoldOneBehindTheOther) {
  std::vector<OdePart> pieces;
  for (const double k : {1.0, -4.0, 10.0}) {
    pieces.push_back(OdePart::of(formula([k](const Tensor& z) { return z * k; })));
  }
  for (const OdeMethod method : {OdeMethod::rk4, OdeMethod::dopri5}) {
    OdeBlockOptions options = options_of(1, 0.6);
    options.solver.method = method;
    options.solver.steps = 300;
    options.solver.rtol = options.solver.atol = 1e-9;
    const OdeBlock block(pieces, options);
    const Tensor x = drawn({3, 1});
    expect_near(block.forward(x), x * std::exp(0.2 * (1 - 4 + 10)), 1e-7);
    expect_near(block.path(x, 100).back(), block.forward(x), 1e-4);
    EXPECT_EQ(block.path(x, 100).size(), 103);  // 34 steps a piece
  }
}

TEST(OdeBlock, ZerosAreAddedAndCutOff) {
  OdeBlockOptions options = options_of(2);
  options.start = OdeStart::zeros;
  options.added = 3;
  // The added channels gather the first, and push it.
  const auto field = formula([](const Tensor& z) {
    const Tensor first = z.narrow(1, 0, 1), sum = z.narrow(1, 2, 3).sum(1, true);
    return torch::cat({sum, sum * 0, first.expand_as(z.narrow(1, 2, 3))}, 1);
  });
  const Tensor x = drawn({4, 2});
  OdeBlock block(field, options);
  // z'' = 3 z from rest.
  const double w = std::sqrt(3.0);
  expect_near(block.forward(x), torch::stack({x.select(1, 0) * std::cosh(w), x.select(1, 1)}, 1), 1e-4);
  options.whole = true;
  const Tensor whole = OdeBlock(field, options).forward(x);
  EXPECT_EQ(whole.sizes(), (std::vector<int64_t>{4, 5}));
  expect_near(whole.select(1, 3), x.select(1, 0) * std::sinh(w) / w, 1e-4);
}

TEST(OdeBlock, ALearnedMapStartsTheState) {
  torch::manual_seed(0);
  OdeBlockOptions options = options_of(2);
  options.start = OdeStart::learned;
  options.added = 1;
  options.order = 2;
  options.whole = true;
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{4, 2}, {4, 2, 3, 5}}) {
    OdeBlock block(formula([](const Tensor& z) { return z.narrow(1, 0, 3) * 0; }), options, 5);
    block.to(torch::kDouble);
    {
      const torch::NoGradGuard guard;
      block.named_parameters()["start_bias"].normal_();
    }
    const Tensor W = block.named_parameters()["start_weight"], b = block.named_parameters()["start_bias"];
    EXPECT_EQ(W.sizes(), (std::vector<int64_t>{6, 2}));
    const Tensor x = drawn(sizes), y = block.forward(x);
    for (int64_t o = 0; o < 3; ++o) {
      const auto mapped = [&](int64_t of) { return W[of][0] * x.select(1, 0) + W[of][1] * x.select(1, 1) + b[of]; };
      expect_near(y.select(1, o), mapped(o) + mapped(3 + o));  // z'' = 0: moves with its speed
    }
  }
}

TEST(OdeBlock, OfOrderTwoIsAnOscillator) {
  OdeBlockOptions options = options_of(2, 3);
  options.order = 2;
  options.solver.steps = 200;
  OdeBlock block(formula([](const Tensor& z) { return -z.narrow(1, 0, 2); }), options);
  const Tensor x = drawn({4, 2});
  expect_near(block.forward(x), x * std::cos(3.0), 1e-7);
  // Of order 3: z''' = z, with the exact solution of three exponentials.
  options.order = 3;
  OdeBlock third(formula([](const Tensor& z) { return z.narrow(1, 0, 2); }), options);
  const double exact = (std::exp(3.0) + 2 * std::exp(-1.5) * std::cos(std::sqrt(3.0) / 2 * 3)) / 3;
  expect_near(third.forward(x), x * exact, 1e-5);
}

TEST(OdeBlock, DataControlShowsTheInput) {
  OdeBlockOptions options = options_of(2, 2);
  options.data_control = true;
  OdeBlock block(formula([](const Tensor& z) { return z.narrow(1, 2, 2); }), options);
  const Tensor x = drawn({4, 2});
  expect_near(block.forward(x), 3 * x);
}

TEST(OdeBlock, DepthsOfSamplesHaveASign) {
  for (const OdeDepth kind : {OdeDepth::own, OdeDepth::absolute}) {
    OdeBlockOptions options = options_of(1, 0.25);
    options.depth_kind = kind;
    options.concat = true;
    options.solver.steps = 60;
    // z' = 1 + 2 s: z(S) = x + S + S^2, and of a negative S backward.
    OdeBlock block(formula([](const Tensor& z) { return 1 + 2 * z.narrow(1, 1, 1); }), options, 3);
    block.to(torch::kDouble);
    {
      const torch::NoGradGuard guard;
      block.named_parameters()["depth_weight2"].fill_(2);
      block.named_parameters()["depth_weight1"].fill_(1);
    }
    const Tensor x = torch::tensor({{-1.0}, {0.3}, {2.0}}, torch::kDouble);
    const Tensor expected = (2 * 16 * x.tanh() + 0.25).squeeze(1), S = block.depth(x);
    expect_near(S, kind == OdeDepth::own ? expected : expected.abs());
    EXPECT_LT(expected[0].item<double>(), 0);
    expect_near(block.forward(x), x + S.unsqueeze(1) + S.unsqueeze(1).square(), 1e-9);
    // Of a map it is the mean's.
    expect_near(block.depth(x.view({3, 1, 1, 1}).expand({3, 1, 2, 2})), S);
  }
}

TEST(OdeBlock, TheIntegralOfALossIsReturned) {
  for (const double depth : {2.0, -2.0}) {
    OdeBlock block(formula([](const Tensor& z) { return z * 0 + 1; }), options_of(1, depth));
    const Tensor x = drawn({3, 1});
    const auto [y, loss] = block.forward_with_loss(x, [](const Tensor& s, const Tensor& z) {
      return (z.squeeze(1) - s) * (z.squeeze(1) - s);  // = x^2 on the way
    });
    expect_near(y, x + depth);
    expect_near(loss, 2 * x.squeeze(1).square());
  }
}

// All knobs at once.
OdeBlock knobs(OdeGradient kind, OdeMethod method, DepthBasis basis, double depth, int64_t steps) {
  OdeBlockOptions options = options_of(2, depth);
  options.depth_kind = OdeDepth::own;
  options.start = OdeStart::learned;
  options.added = 1;
  options.order = 2;
  options.data_control = options.concat = true;
  options.solver.method = method;
  options.solver.steps = steps;
  options.solver.rtol = options.solver.atol = 1e-9;
  options.gradient.kind = kind;
  std::vector<OdePart> pieces;
  for (const char* name : {"first", "second"}) {
    pieces.push_back(
        OdePart::of(std::make_shared<DepthLinear>(name, options.field_inputs(), 3, DepthTerms{basis, 3, 1}, 4)));
  }
  OdeBlock block(pieces, options, 4);
  block.to(torch::kDouble);
  const torch::NoGradGuard guard;
  torch::manual_seed(3);
  for (const Tensor& parameter : block.parameters()) parameter.add_(torch::randn_like(parameter) * 0.3);
  return block;
}

std::vector<Tensor> gradients_of(const OdeBlock& block, const Tensor& x) {
  const auto [y, loss] =
      block.forward_with_loss(x, [](const Tensor& s, const Tensor& z) { return z.square().sum(1) * (1 + s * s); });
  std::vector<Tensor> inputs = block.parameters();
  inputs.push_back(x);
  return torch::autograd::grad({y.sin().sum() + 0.1 * loss.sum()}, inputs);
}

TEST(OdeBlock, EveryGradientReachesEveryKnob) {
  torch::manual_seed(2);
  const Tensor x = drawn({3, 2}).requires_grad_();
  for (const DepthBasis basis : {DepthBasis::fourier, DepthBasis::chebyshev}) {
    const auto gradients = [&](OdeGradient kind, OdeMethod method, int64_t steps) {
      return gradients_of(knobs(kind, method, basis, 0.8, steps), x);
    };
    const auto expected = gradients(OdeGradient::steps, OdeMethod::rk4, 40);
    const auto again = gradients(OdeGradient::checkpoints, OdeMethod::rk4, 40);
    const auto adjoint = gradients(OdeGradient::adjoint, OdeMethod::dopri5, 0);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_GT(expected[i].abs().max().item<double>(), 0) << i;
      expect_near(again[i], expected[i], 1e-10);
      expect_near(adjoint[i], expected[i], 1e-4);
    }
  }
}

// The graph may outlive the block.
TEST(OdeBlock, BackwardNeedsNoBlock) {
  const Tensor x = drawn({3, 2}).requires_grad_();
  const auto expected = gradients_of(knobs(OdeGradient::steps, OdeMethod::rk4, DepthBasis::fourier, 1, 4), x).back();
  auto block = std::make_unique<OdeBlock>(knobs(OdeGradient::checkpoints, OdeMethod::rk4, DepthBasis::fourier, 1, 4));
  Tensor total;
  {
    const auto [y, loss] =
        block->forward_with_loss(x, [](const Tensor& s, const Tensor& z) { return z.square().sum(1) * (1 + s * s); });
    total = y.sin().sum() + 0.1 * loss.sum();
  }
  block.reset();
  expect_near(torch::autograd::grad({total}, {x})[0], expected);
}

TEST(OdeBlock, ThePathBeginsAtTheStartAndEndsAtTheState) {
  OdeBlockOptions options = options_of(2, 2);
  options.start = OdeStart::zeros;
  options.added = 1;
  options.whole = true;
  options.solver.steps = 20;
  OdeBlock block(torch::nn::Linear(3, 3).ptr(), options);
  const Tensor x = torch::randn({4, 2});
  const std::vector<Tensor> path = block.path(x, 20);
  ASSERT_EQ(path.size(), 21);
  EXPECT_TRUE(path.front().equal(block.start(x)));
  EXPECT_TRUE(path.back().equal(block.forward(x)));
}

TEST(OdeBlock, IsExactUnderAutocastAndKeepsTheInputsType) {
  OdeBlock block(torch::nn::Linear(2, 2).ptr(), options_of(2));
  const Tensor x = torch::randn({4, 2});
  const Tensor plain = block.forward(x);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Tensor under = block.forward(x), low = block.forward(x.to(torch::kBFloat16));
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_TRUE(under.equal(plain));
  EXPECT_EQ(low.scalar_type(), torch::kBFloat16);
}

TEST(OdeBlock, RefusesWhatDoesNotFit) {
  const auto message = [](OdeBlockOptions options, int64_t pieces = 1) -> std::string {
    try {
      std::vector<OdePart> parts;
      for (int64_t i = 0; i < pieces; ++i) parts.push_back(OdePart::of(torch::nn::Linear(2, 2).ptr()));
      OdeBlock block(parts, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message(options_of(2)), "no error");
  EXPECT_THAT(message(options_of(0)), testing::HasSubstr("channels and order must be at least 1, got 0 and 1"));
  EXPECT_THAT(message(options_of(2, 0)), testing::HasSubstr("depth must be a number that is not 0, got 0"));
  OdeBlockOptions options = options_of(2);
  options.added = 1;
  EXPECT_THAT(message(options), testing::HasSubstr("start must be \"zeros\" or \"learned\""));
  options.added = 0, options.start = OdeStart::zeros;
  EXPECT_THAT(message(options), testing::HasSubstr("added must be at least 1 where start is \"zeros\", got 0"));
  EXPECT_THAT(message(options_of(2), 3), testing::HasSubstr("steps must be a multiple of the 3 pieces, got 10"));
  EXPECT_THAT(message(options_of(2), 0), testing::HasSubstr("there must be a field, got none"));
  OdeBlock block(torch::nn::Linear(2, 2).ptr(), options_of(2));
  EXPECT_THAT(harness::message_of([&] { block.forward(torch::zeros({4, 3})); }),
              testing::HasSubstr("OdeBlock: x must be [B, 2, ..] of a floating type, got [4, 3] of Float"));
}

}  // namespace
}  // namespace loci
