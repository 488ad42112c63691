// What all kinds of memory share.
//
// Legend: T tokens, d width, H heads, K top_k, R rows, D width of a row.
#include "loci/nn/memory/memory_layer.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <vector>

#include "loci/base/progress.h"
#include "loci/nn/memory/flat_key_memory.h"
#include "loci/nn/memory/peer_memory.h"
#include "loci/table/local_table.h"
#include "loci/table/usage.h"
#include "tests/memory_cases.h"
#include "tests/memory_reference.h"

namespace loci {
namespace {

using at::Tensor;

TEST(MemoryLayer, PaddingLeavesOutputGradientsAndStatisticsUnchanged) {
  for (const QueryNorm norm :
       {QueryNorm::none, QueryNorm::layer, QueryNorm::rms, QueryNorm::batch, QueryNorm::center}) {
    for (const OutputMap map : {OutputMap::none, OutputMap::swilu}) {
      const MemoryCase c{"padded", small_memory([&](auto& o) { o.query_norm = norm, o.output = map; })};
      const auto padded = built_memory<ProductKeyMemory>(c), plain = built_memory<ProductKeyMemory>(c);
      const Tensor all = torch::randn({2, 5, 6}, at::kDouble);
      const Tensor mask = at::tensor({1, 1, 0, 1, 0, 0, 1, 1, 1, 0}, at::kLong).to(at::kBool);  // [B * L]
      const Tensor x = all.clone().requires_grad_();
      const Tensor valid = all.view({10, 6}).index({mask}).clone().requires_grad_();  // [6, d]

      const auto counted = std::make_shared<Usage>(14), alone = std::make_shared<Usage>(14);
      const ObserverScope first(*padded.memory, counted), second(*plain.memory, alone);
      const Tensor y = padded.memory->forward(x, {.token_mask = mask.view({2, 5}), .generator = {}});
      const Tensor expected = plain.memory->forward(valid);
      EXPECT_TRUE(torch::equal(y.view({10, 6}).index({mask}), expected));
      EXPECT_EQ(y.view({10, 6}).index({~mask}).abs().max().item<double>(), 0);
      y.pow(2).sum().backward();
      expected.pow(2).sum().backward();
      EXPECT_TRUE(torch::equal(x.grad().view({10, 6}).index({mask}), valid.grad()));
      EXPECT_EQ(x.grad().view({10, 6}).index({~mask}).abs().max().item<double>(), 0);
      for (size_t i = 0; i < plain.memory->parameters().size(); ++i) {
        const Tensor got = padded.memory->parameters()[i].grad(), expected = plain.memory->parameters()[i].grad();
        ASSERT_EQ(got.defined(), expected.defined());
        EXPECT_TRUE(!got.defined() || torch::equal(got, expected));
      }
      for (size_t i = 0; i < plain.memory->buffers().size(); ++i) {
        EXPECT_TRUE(torch::equal(padded.memory->buffers()[i], plain.memory->buffers()[i]));
      }
      EXPECT_TRUE(torch::equal(counted->state(), alone->state()));
      EXPECT_EQ(alone->metrics().reads, 6 * 2 * 3);
      EXPECT_TRUE(
          torch::equal(padded.table->store().references().sum().row, plain.table->store().references().sum().row));
      EXPECT_TRUE(torch::equal(padded.table->store().references().sum().gradient,
                               plain.table->store().references().sum().gradient));
    }
  }
}

TEST(MemoryLayer, AllTokensPaddedGivesZeroAndNoReferences) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"padded", small_memory()});
  const Tensor y =
      memory->forward(torch::randn({4, 6}, at::kDouble), {.token_mask = at::zeros({4}, at::kBool), .generator = {}});
  EXPECT_TRUE(torch::equal(y, at::zeros({4, 6}, at::kDouble)));
  y.sum().backward();
  EXPECT_TRUE(table->store().references().empty() || table->store().references().sum().row.numel() == 0);
}

TEST(MemoryLayer, NoTokensAndOneTokenKeepTheShape) {
  for (const MemoryCase& c : memory_cases()) {
    const auto [table, memory] = built_memory<ProductKeyMemory>(c);
    const int64_t d = c.options.width;
    EXPECT_EQ(memory->forward(at::zeros({2, 0, d}, at::kDouble)).sizes(), (std::vector<int64_t>{2, 0, d}));
    EXPECT_EQ(memory->forward(at::zeros({d}, at::kDouble)).sizes(), (std::vector<int64_t>{d}));
  }
}

TEST(MemoryLayer, TokensAreInRowMajorOrderAlsoForStridedInput) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"order", small_memory()});
  const Tensor x = torch::randn({4, 3, 6}, at::kDouble).transpose(0, 1);  // [3, 4, 6]
  const Tensor y = memory->forward(x);
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 4; ++j) EXPECT_TRUE(torch::allclose(y[i][j], memory->forward(x[i][j]), 1e-12, 1e-13));
  }
}

TEST(MemoryLayer, DropoutFollowsTheGeneratorAndEndsInEvaluation) {
  for (int which = 0; which < 3; ++which) {
    const auto [table, memory] = built_memory<ProductKeyMemory>(
        {"dropout", small_memory([&](auto& o) {
           (which == 0 ? o.input_dropout : which == 1 ? o.query_dropout : o.output_dropout) = 0.5;
         })});
    const Tensor x = torch::randn({30, 6}, at::kDouble);
    const auto run = [&](uint64_t seed) {
      return memory->forward(x, {.token_mask = {}, .generator = at::make_generator<at::CPUGeneratorImpl>(seed)});
    };
    EXPECT_TRUE(torch::equal(run(1), run(1)));
    EXPECT_FALSE(torch::equal(run(1), run(2)));
    memory->eval();
    EXPECT_TRUE(torch::equal(run(1), run(2)));
  }
}

TEST(MemoryLayer, AutocastLeavesSearchWeightsAndSumsInFloat32) {
  const MemoryCase c{"autocast", small_memory([](auto& o) { o.width = 16; }), 14, 0, /*identity=*/true};
  const auto [table, memory] = built_memory<ProductKeyMemory>(c, at::kFloat);
  const Tensor x = torch::randn({50, 16});
  const auto plain = memory->read_with_indices(x);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const auto cast = memory->read_with_indices(x);
  const Tensor low = memory->forward(x.to(at::kBFloat16));
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_TRUE(torch::equal(plain.score, cast.score));
  EXPECT_TRUE(torch::equal(plain.weight, cast.weight));
  EXPECT_TRUE(torch::equal(plain.output, cast.output));
  EXPECT_EQ(low.scalar_type(), at::kBFloat16);
}

constexpr at::ScalarType kRealTypes[] = {at::kBFloat16, at::kFloat, at::kDouble};

// The parameters are of type `type`, the input of each.
void expect_type_of_input(MemoryLayer& memory, at::ScalarType type) {
  memory.to(type);
  for (const auto input_type : kRealTypes) {
    SCOPED_TRACE(c10::str(type, " parameters, ", input_type, " input"));
    const Tensor x = torch::randn({5, 6}).to(input_type).requires_grad_();
    const Tensor y = memory.forward(x);
    EXPECT_EQ(y.scalar_type(), input_type);
    y.to(at::kFloat).pow(2).sum().backward();
    EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
    memory.eval();
    EXPECT_EQ(memory.forward(x).scalar_type(), input_type);
    memory.train();
  }
}

// Parameters, input and tables may be of different types.
TEST(MemoryLayer, TheOutputHasTheInputsTypeWhateverTheOthersAre) {
  for (const QueryNorm norm :
       {QueryNorm::none, QueryNorm::layer, QueryNorm::rms, QueryNorm::batch, QueryNorm::center}) {
    for (const OutputMap map : {OutputMap::none, OutputMap::projection, OutputMap::swilu}) {
      const MemoryCase c{"types",
                         small_memory([&](auto& o) { o.query_norm = norm, o.output = map, o.normalise_keys = true; })};
      for (const auto rows : kRealTypes) {
        SCOPED_TRACE(c10::str(rows, " rows"));
        for (const auto type : kRealTypes) {
          expect_type_of_input(*built_memory<ProductKeyMemory>(c, rows).memory, type);
          if (map == OutputMap::none) expect_type_of_input(*built_memory<FlatKeyMemory>(c, rows).memory, type);
        }
      }
    }
  }
  for (const auto down_type : kRealTypes) {
    for (const auto up_type : kRealTypes) {
      SCOPED_TRACE(c10::str(down_type, " down, ", up_type, " up"));
      const auto down = std::make_shared<LocalTable>("down", 14, 6, LocalTableOptions{.dtype = down_type});
      const auto up = std::make_shared<LocalTable>("up", 14, 6, LocalTableOptions{.dtype = up_type});
      for (const auto type : kRealTypes) {
        PeerMemory memory("peer", small_memory(), down, up, 1);
        expect_type_of_input(memory, type);
      }
    }
  }
}

TEST(MemoryLayer, RunningStatisticsOfAnotherTypeMoveToo) {
  const MemoryCase c{"statistics", small_memory([](auto& o) { o.query_norm = QueryNorm::batch, o.width = 16; }), 14, 0,
                     true};
  const auto [table, memory] = built_memory<ProductKeyMemory>(c, at::kFloat);
  memory->forward(torch::randn({50, 16}, at::kDouble) * 2 + 3);
  EXPECT_NEAR(memory->norm.running_mean.mean().item<double>(), 0.3, 0.05);
  EXPECT_NEAR(memory->norm.running_variance.mean().item<double>(), 0.9 + 0.1 * 4, 0.1);
}

TEST(MemoryLayer, CenterTakesAwayTheBatchsMeanInTrainingAndTheRunningOneOtherwise) {
  const MemoryCase c{"center", small_memory([](auto& o) { o.query_norm = QueryNorm::center, o.width = 16; }), 14, 0,
                     true};
  const auto [table, memory] = built_memory<ProductKeyMemory>(c, at::kFloat);
  const Tensor x = torch::randn({50, 16}) * 2 + 3;
  const Tensor mean = x.mean(0), variance = x.var(0, /*unbiased=*/true);
  EXPECT_TRUE(torch::allclose(memory->query(x).view({50, 16}), x - mean, 1e-5, 1e-6));
  const Tensor running = memory->norm.running_mean.view(16).clone();
  EXPECT_TRUE(torch::allclose(running, 0.1 * mean, 1e-5, 1e-6));
  EXPECT_TRUE(torch::allclose(memory->norm.running_variance.view(16), 0.9 + 0.1 * variance, 1e-5, 1e-6));
  // One token has no batch.
  EXPECT_TRUE(torch::equal(memory->query(x.narrow(0, 0, 1)).view({1, 16}), x.narrow(0, 0, 1) - running));
  memory->eval();
  EXPECT_TRUE(torch::equal(memory->query(x).view({50, 16}), x - running));
  EXPECT_TRUE(torch::equal(memory->norm.running_mean.view(16), running));
  for (const auto& parameter : memory->named_parameters()) EXPECT_TRUE(parameter.key().starts_with("keys"));
}

TEST(MemoryLayer, MeanDistanceIsThatOfTheLastTrainingBatchFromTheRunningMean) {
  for (const QueryNorm norm : {QueryNorm::batch, QueryNorm::center}) {
    const MemoryCase c{"distance", small_memory([&](auto& o) { o.query_norm = norm, o.width = 16; }), 14, 0, true};
    const auto [table, memory] = built_memory<ProductKeyMemory>(c);
    EXPECT_TRUE(std::isnan(memory->mean_distance()));
    const Tensor x = torch::randn({400, 16}, at::kDouble) + torch::randn({16}, at::kDouble);
    memory->forward(x * 2);
    const Tensor before = memory->norm.running_mean.clone();
    memory->forward(x);
    const Tensor distance =
        (x.mean(0).view_as(before) - before) / (memory->norm.running_variance + kNormEpsilon).sqrt();
    EXPECT_NEAR(memory->mean_distance(), distance.square().mean().sqrt().item<double>(), 1e-9);
    for (int step = 0; step < 100; ++step) memory->forward(x);
    EXPECT_LT(memory->mean_distance(), 1e-3);
    memory->eval();
    memory->forward(x * 3);
    EXPECT_LT(memory->mean_distance(), 1e-3);
  }
}

TEST(MemoryLayer, WithoutAnOutputMapTheOutputHasTheTablesWidth) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"wide", small_memory(), 14, 9});
  const Tensor x = torch::randn({3, 4, 6}, at::kDouble), y = memory->forward(x);
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{3, 4, 9}));
  const Tensor expected = reference_forward(*memory, x.view({12, 6}), table->store().values());
  EXPECT_TRUE(torch::allclose(y.view({12, 9}), expected, 1e-10, 1e-11));
}

// So that a wrapper may require a gradient of every parameter.
TEST(MemoryLayer, EveryParameterGetsAGradient) {
  for (const MemoryCase& c : memory_cases()) {
    if (c.options.top_k == 1) continue;
    SCOPED_TRACE(c.name);
    const auto [table, memory] = built_memory<ProductKeyMemory>(c);
    memory->forward(torch::randn({9, c.options.width}, at::kDouble)).pow(2).sum().backward();
    for (const auto& parameter : memory->named_parameters()) {
      EXPECT_TRUE(parameter.value().grad().defined()) << parameter.key();
    }
  }
}

TEST(MemoryLayer, StandsInASequential) {
  const auto table = std::make_shared<LocalTable>("values", 14, 6);
  torch::nn::Sequential network(
      torch::nn::Linear(3, 6), std::make_shared<ProductKeyMemory>("a", small_memory(), table, 1),
      std::make_shared<FlatKeyMemory>("b", small_memory(), table, 1),
      std::make_shared<PeerMemory>("c", small_memory(), table, table, 1), torch::nn::Linear(6, 2));
  EXPECT_EQ(network->forward(torch::randn({4, 3})).sizes(), (std::vector<int64_t>{4, 2}));
}

TEST(MemoryLayer, WithoutObserversItHoldsNothingForTheRows) {
  ProductKeyMemoryOptions options;
  options.width = 1;
  options.key_width = 2;
  options.heads = 1;
  const auto table = std::make_shared<LocalTable>("values", 1 << 22, 1);
  const int64_t before = resident_bytes();
  ProductKeyMemory memory("memory", options, table, 1);
  EXPECT_LT(resident_bytes() - before, 1 << 24);
}

// The recomputation of activation checkpointing: `f` runs again within backward.
struct Checkpointed : torch::autograd::Function<Checkpointed> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, MemoryLayer* memory) {
    context->save_for_backward({x});
    context->saved_data["memory"] = reinterpret_cast<int64_t>(memory);
    return memory->forward(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradient) {
    const at::AutoGradMode with_gradient(true);
    const Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    auto* const memory = reinterpret_cast<MemoryLayer*>(context->saved_data["memory"].toInt());
    memory->forward(x).backward(gradient[0]);
    return {x.grad(), Tensor()};
  }
};

struct ToldReads : ReadObserver {
  void reads(const MemoryReads& reads) override { told.push_back(reads); }
  std::vector<MemoryReads> told;
};

TEST(MemoryLayer, EachObserverIsToldOfTensorsOutsideTheGraph) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"told", small_memory()});
  const auto first = std::make_shared<ToldReads>(), second = std::make_shared<ToldReads>();
  const ObserverScope one(*memory, first), two(*memory, second);
  const MemoryReads reads = memory->read_with_indices(torch::randn({4, 6}, at::kDouble));
  EXPECT_TRUE(reads.output.requires_grad());
  for (const auto& observer : {first, second}) {
    ASSERT_EQ(observer->told.size(), 1u);
    const MemoryReads& told = observer->told[0];
    EXPECT_TRUE(torch::equal(told.output, reads.output) && torch::equal(told.score, reads.score));
    EXPECT_TRUE(torch::equal(told.index, reads.index) && torch::equal(told.weight, reads.weight));
    EXPECT_FALSE(told.output.requires_grad() || told.score.requires_grad() || told.weight.requires_grad());
  }
}

TEST(MemoryLayer, ObserversAreToldOfEachReadOnceUnderActivationCheckpointing) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"checkpointed", small_memory()});
  const auto usage = std::make_shared<Usage>(14);
  const ObserverScope counting(*memory, usage);
  const Tensor x = torch::randn({4, 6}, at::kDouble).requires_grad_();
  Checkpointed::apply(x, memory.get()).sum().backward();
  EXPECT_TRUE(x.grad().defined() && !table->store().references().empty());
  EXPECT_EQ(usage->metrics().reads, 4 * 2 * 3);
}

TEST(MemoryLayer, AnObserverSeesTrainingAndEvaluationWhileItIsGiven) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"observed", small_memory()});
  const auto usage = std::make_shared<Usage>(14);
  const Tensor x = torch::randn({4, 6}, at::kDouble);
  {
    const ObserverScope counting(*memory, usage);
    memory->forward(x);
    memory->eval();
    memory->forward(x);
  }
  memory->forward(x);
  EXPECT_EQ(usage->metrics().reads, 2 * 4 * 2 * 3);
}

TEST(MemoryLayer, ReadsWithoutGradientLeaveNoReferences) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"plain", small_memory()});
  const torch::NoGradGuard guard;
  memory->forward(torch::randn({4, 6}, at::kDouble));
  EXPECT_TRUE(table->store().references().empty());
}

}  // namespace
}  // namespace loci
