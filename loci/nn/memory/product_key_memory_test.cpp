// Legend: T tokens, d width, H heads, K top_k, w half a key's width, R rows, D width of a row.
#include "loci/nn/memory/product_key_memory.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <string>

#include "loci/base/check.h"
#include "loci/base/progress.h"
#include "loci/nn/memory/flat_key_memory.h"
#include "loci/nn/memory/peer_memory.h"
#include "loci/table/local_table.h"
#include "loci/table/usage.h"
#include "tests/memory_reference.h"

namespace loci {
namespace {

using at::Tensor;

struct Case {
  std::string name;
  ProductKeyMemoryOptions options;
  int64_t rows = 14, value_width = 0;  // 0: the layer's
  bool identity = false;               // no query net
};

ProductKeyMemoryOptions small(const std::function<void(ProductKeyMemoryOptions&)>& change = [](auto&) {}) {
  ProductKeyMemoryOptions options;
  options.width = 6;
  options.heads = 2;
  options.top_k = 3;
  options.key_width = 8;
  change(options);
  return options;
}

std::vector<Case> cases() {
  using O = ProductKeyMemoryOptions;
  std::vector<Case> result = {
      {"default", small()},
      {"mlp", small([](O& o) { o.query_hidden = {11, 5}; })},
      {"no_net", small([](O& o) { o.width = 16; }), 14, 0, /*identity=*/true},
      {"no_norm", small([](O& o) { o.query_norm = QueryNorm::none; })},
      {"rms", small([](O& o) { o.query_norm = QueryNorm::rms; })},
      {"batch", small([](O& o) { o.query_norm = QueryNorm::batch; })},
      {"unit_keys", small([](O& o) { o.normalise_keys = true; })},
      {"relu", small([](O& o) { o.weight = WeightFunction::relu; })},
      {"sigmoid", small([](O& o) { o.weight = WeightFunction::sigmoid; })},
      {"projection", small([](O& o) { o.output = OutputMap::projection; }), 14, 9},
      {"swilu", small([](O& o) { o.output = OutputMap::swilu; }), 14, 9},
      {"modulo", small([](O& o) { o.addressing = RowAddressing::modulo, o.top_k = 16; })},
      {"offset", small([](O& o) { o.row_offset = 5; })},
      {"all_rows", small([](O& o) { o.top_k = 14; })},
      {"one_row", small([](O& o) { o.top_k = 1, o.weight = WeightFunction::sigmoid; }), 1},
  };
  for (const int64_t width : {1, 3, 7, 33}) {
    result.push_back({"width_" + std::to_string(width), small([&](O& o) { o.width = width, o.key_width = 0; })});
  }
  return result;
}

template <class Memory>
struct Built {
  std::shared_ptr<LocalTable> table;
  std::shared_ptr<Memory> memory;
};

// In float64, with parameters away from their neutral starts.
template <class Memory>
Built<Memory> build(const Case& c, at::ScalarType type = at::kDouble) {
  const int64_t width = c.value_width == 0 ? c.options.width : c.value_width;
  auto table = std::make_shared<LocalTable>("values", c.rows, width, LocalTableOptions{.dtype = type});
  table->store().initialise_normal(1, 1);
  const auto net = c.identity ? std::make_shared<IdentityQueryNet>() : nullptr;
  auto memory = std::make_shared<Memory>("memory", c.options, table, 7, net);
  memory->to(type);
  const torch::NoGradGuard guard;
  torch::manual_seed(5);
  for (auto& parameter : memory->parameters()) parameter.add_(torch::randn_like(parameter), 0.3);
  return {table, memory};
}

Tensor dense_gradient(const Table& table) {
  const RowGradient sum = table.store().references().sum();
  return at::zeros({table.rows(), table.width()}, sum.gradient.options()).index_copy_(0, sum.row, sum.gradient);
}

template <class Memory>
void expect_reference(const Case& c) {
  SCOPED_TRACE(c.name);
  const auto [table, memory] = build<Memory>(c);
  const Tensor x = torch::randn({9, c.options.width}, at::kDouble).requires_grad_();
  const Tensor values = table->store().values().detach().clone().requires_grad_();
  const Tensor direction = torch::randn({9, c.options.width}, at::kDouble);
  std::vector<Tensor> inputs = memory->parameters();
  inputs.push_back(x);

  const Tensor expected = reference_forward(*memory, x, values);
  auto with_values = inputs;
  with_values.push_back(values);
  const auto truth = torch::autograd::grad({(expected * direction).sum()}, with_values, {}, {}, false, true);
  const Tensor y = memory->forward(x.view({3, 3, c.options.width})).view({9, c.options.width});
  EXPECT_TRUE(torch::allclose(y, expected, 1e-10, 1e-11)) << (y - expected).abs().max();
  const auto found = torch::autograd::grad({(y * direction).sum()}, inputs, {}, {}, false, true);
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_EQ(found[i].defined(), truth[i].defined()) << i;
    if (found[i].defined()) {
      EXPECT_TRUE(torch::allclose(found[i], truth[i], 1e-8, 1e-9)) << i << (found[i] - truth[i]).abs().max();
    }
  }
  EXPECT_TRUE(torch::allclose(dense_gradient(*table), truth.back(), 1e-9, 1e-10));
}

TEST(ProductKeyMemory, EqualsTheReferenceWithAllGradients) {
  for (const Case& c : cases()) expect_reference<ProductKeyMemory>(c);
}

TEST(FlatKeyMemory, EqualsTheReferenceWithAllGradients) {
  for (const Case& c : cases()) {
    if (c.options.addressing == RowAddressing::mask) expect_reference<FlatKeyMemory>(c);
  }
}

TEST(FlatKeyMemory, WithAllPairsOfSubKeysIsTheProductKeyMemory) {
  const Case c{"pairs", small([](auto& o) { o.normalise_keys = true; }), 12};
  const auto [table, product] = build<ProductKeyMemory>(c);
  const auto [flat_table, flat] = build<FlatKeyMemory>(c);
  {
    const torch::NoGradGuard guard;
    const int64_t n1 = product->sub_keys1(), n2 = product->sub_keys2();
    const Tensor first = product->keys1.unsqueeze(2).expand({2, n1, n2, 4}).reshape({2, n1 * n2, 4});
    const Tensor second = product->keys2.unsqueeze(1).expand({2, n1, n2, 4}).reshape({2, n1 * n2, 4});
    flat->keys.copy_(at::cat({first, second}, 2));
    for (const auto& parameter : product->named_parameters()) {
      Tensor* own = flat->named_parameters().find(parameter.key());
      if (own != nullptr) own->copy_(parameter.value());
    }
  }
  const Tensor x = torch::randn({20, 6}, at::kDouble);
  const auto a = product->read_with_indices(x), b = flat->read_with_indices(x);
  EXPECT_TRUE(torch::equal(a.index, b.index));
  EXPECT_TRUE(torch::allclose(a.output, b.output, 1e-10, 1e-12));
}

TEST(ProductKeyMemory, GradientsEqualFiniteDifferences) {
  for (const Case& c : cases()) {
    if (c.name != "swilu" && c.name != "unit_keys" && c.name != "batch") continue;
    SCOPED_TRACE(c.name);
    const auto [table, memory] = build<ProductKeyMemory>(c);
    const Tensor x = torch::randn({5, 6}, at::kDouble).requires_grad_(), direction = torch::randn({5, 6}, at::kDouble);
    const auto loss = [&] { return (memory->forward(x) * direction).sum(); };
    std::vector<Tensor> inputs = memory->parameters();
    inputs.push_back(x);
    const auto gradient = torch::autograd::grad({loss()}, inputs, {}, {}, false, true);
    const torch::NoGradGuard guard;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const Tensor flat = inputs[i].view(-1);
      for (int64_t j = 0; j < flat.numel(); j += 1 + flat.numel() / 7) {
        const double step = 1e-6, before = flat[j].item<double>();
        flat[j].fill_(before + step);
        const double up = loss().item<double>();
        flat[j].fill_(before - step);
        const double down = loss().item<double>();
        flat[j].fill_(before);
        const double found = gradient[i].defined() ? gradient[i].view(-1)[j].item<double>() : 0;
        EXPECT_NEAR((up - down) / (2 * step), found, 1e-6) << i << " " << j;
      }
    }
  }
}

TEST(ProductKeyMemory, PaddingLeavesOutputGradientsAndStatisticsUnchanged) {
  for (const QueryNorm norm : {QueryNorm::none, QueryNorm::layer, QueryNorm::rms, QueryNorm::batch}) {
    for (const OutputMap map : {OutputMap::none, OutputMap::swilu}) {
      const Case c{"padded", small([&](auto& o) { o.query_norm = norm, o.output = map; })};
      const auto padded = build<ProductKeyMemory>(c), plain = build<ProductKeyMemory>(c);
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

TEST(ProductKeyMemory, AllTokensPaddedGivesZeroAndNoReferences) {
  const auto [table, memory] = build<ProductKeyMemory>({"padded", small()});
  const Tensor y =
      memory->forward(torch::randn({4, 6}, at::kDouble), {.token_mask = at::zeros({4}, at::kBool), .generator = {}});
  EXPECT_TRUE(torch::equal(y, at::zeros({4, 6}, at::kDouble)));
  y.sum().backward();
  EXPECT_TRUE(table->store().references().empty() || table->store().references().sum().row.numel() == 0);
}

TEST(ProductKeyMemory, NoTokensAndOneTokenKeepTheShape) {
  for (const Case& c : cases()) {
    const auto [table, memory] = build<ProductKeyMemory>(c);
    const int64_t d = c.options.width;
    EXPECT_EQ(memory->forward(at::zeros({2, 0, d}, at::kDouble)).sizes(), (std::vector<int64_t>{2, 0, d}));
    EXPECT_EQ(memory->forward(at::zeros({d}, at::kDouble)).sizes(), (std::vector<int64_t>{d}));
  }
}

TEST(ProductKeyMemory, TokensAreInRowMajorOrderAlsoForStridedInput) {
  const auto [table, memory] = build<ProductKeyMemory>({"order", small()});
  const Tensor x = torch::randn({4, 3, 6}, at::kDouble).transpose(0, 1);  // [3, 4, 6]
  const Tensor y = memory->forward(x);
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 4; ++j) EXPECT_TRUE(torch::allclose(y[i][j], memory->forward(x[i][j]), 1e-12, 1e-13));
  }
}

TEST(ProductKeyMemory, SoftmaxOverOneRowGivesKeysAndQueryNetExactlyNoGradient) {
  testing::internal::CaptureStderr();
  const auto [table, memory] = build<ProductKeyMemory>({"one", small([](auto& o) { o.top_k = 1; })});
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("top_k = 1"));
  memory->forward(torch::randn({8, 6}, at::kDouble)).pow(2).sum().backward();
  for (const Tensor& still : {memory->keys1, memory->keys2, dynamic_cast<MlpQueryNet&>(*memory->query_net).weight[0]}) {
    EXPECT_TRUE(!still.grad().defined() || still.grad().abs().max().item<double>() == 0);
  }
  EXPECT_GT(table->store().references().sum().gradient.abs().max().item<double>(), 0);
}

TEST(ProductKeyMemory, ReadsOfAHeadAreTopK) {
  const auto [table, memory] = build<ProductKeyMemory>({"reads", small()});
  const auto reads = memory->read_with_indices(torch::randn({4, 6}, at::kDouble));
  EXPECT_EQ(reads.index.sizes(), (std::vector<int64_t>{4, 2, 3}));
  EXPECT_TRUE(torch::allclose(reads.weight.sum(-1), at::ones({4, 2}, at::kDouble)));
}

TEST(ProductKeyMemory, ATableSharedByThreeLayersGetsTheSumOfTheirGradients) {
  const Case c{"shared", small()};
  auto table = std::make_shared<LocalTable>("values", 14, 6, LocalTableOptions{.dtype = at::kDouble});
  table->store().initialise_normal(1, 1);
  std::vector<std::shared_ptr<ProductKeyMemory>> layers;
  for (const char* name : {"a", "b", "c"}) {
    layers.push_back(std::make_shared<ProductKeyMemory>(name, c.options, table, 7));
    layers.back()->to(at::kDouble);
  }
  EXPECT_FALSE(torch::equal(layers[0]->keys1, layers[1]->keys1));
  const Tensor x = torch::randn({5, 6}, at::kDouble);
  Tensor sum = at::zeros({14, 6}, at::kDouble);
  for (const auto& layer : layers) {
    layer->forward(x).pow(2).sum().backward();
    sum += dense_gradient(*table);
    table->store().references().clear();
  }
  Tensor loss = at::zeros({}, at::kDouble);
  for (const auto& layer : layers) loss = loss + layer->forward(x).pow(2).sum();
  loss.backward();
  EXPECT_TRUE(torch::allclose(dense_gradient(*table), sum, 1e-10, 1e-12));
}

TEST(ProductKeyMemory, TwoModelsInOneProcessDoNotMeet) {
  const auto one = build<ProductKeyMemory>({"one", small()}), two = build<ProductKeyMemory>({"two", small()});
  one.memory->forward(torch::randn({4, 6}, at::kDouble)).sum().backward();
  EXPECT_FALSE(one.table->store().references().empty());
  EXPECT_TRUE(two.table->store().references().empty());
  for (const auto& parameter : two.memory->parameters()) EXPECT_FALSE(parameter.grad().defined());
}

TEST(ProductKeyMemory, TheTableIsNoParameter) {
  const auto [table, memory] = build<ProductKeyMemory>({"names", small()});
  for (const auto& parameter : memory->parameters()) EXPECT_FALSE(parameter.is_alias_of(table->store().values()));
}

TEST(ProductKeyMemory, StartDependsOnSeedAndNameAlone) {
  const auto start = [](const char* name, uint64_t seed, int threads) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    auto table = std::make_shared<LocalTable>("values", 5000, 64);
    ProductKeyMemoryOptions options;
    options.width = 64;
    const ProductKeyMemory memory(name, options, table, seed);
    at::set_num_threads(before);
    return at::cat({memory.keys1.flatten(), memory.keys2.flatten(),
                    dynamic_cast<const MlpQueryNet&>(*memory.query_net).weight[0].flatten()})
        .detach();
  };
  const Tensor first = start("a", 1, 1);
  EXPECT_TRUE(torch::equal(first, start("a", 1, 3)));
  EXPECT_FALSE(torch::equal(first, start("b", 1, 1)));
  EXPECT_FALSE(torch::equal(first, start("a", 2, 1)));
}

TEST(ProductKeyMemory, DropoutFollowsTheGeneratorAndEndsInEvaluation) {
  for (int which = 0; which < 3; ++which) {
    const auto [table, memory] = build<ProductKeyMemory>(
        {"dropout", small([&](auto& o) {
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

TEST(ProductKeyMemory, AutocastLeavesSearchWeightsAndSumsInFloat32) {
  const Case c{"autocast", small([](auto& o) { o.width = 16; }), 14, 0, /*identity=*/true};
  const auto [table, memory] = build<ProductKeyMemory>(c, at::kFloat);
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

// Parameters, input and table may be of different types.
TEST(MemoryLayer, TheOutputHasTheInputsTypeWhateverTheOthersAre) {
  const std::vector<at::ScalarType> types = {at::kBFloat16, at::kFloat, at::kDouble};
  for (const QueryNorm norm : {QueryNorm::none, QueryNorm::layer, QueryNorm::rms, QueryNorm::batch}) {
    for (const OutputMap map : {OutputMap::none, OutputMap::projection, OutputMap::swilu}) {
      for (const auto table_type : types) {
        for (const auto type : types) {
          const Case c{"types", small([&](auto& o) { o.query_norm = norm, o.output = map, o.normalise_keys = true; })};
          const auto [table, memory] = build<ProductKeyMemory>(c, table_type);
          memory->to(type);
          for (const auto input_type : types) {
            SCOPED_TRACE(c10::str(table_type, " rows, ", type, " parameters, ", input_type, " input"));
            const Tensor x = torch::randn({5, 6}).to(input_type).requires_grad_();
            const Tensor y = memory->forward(x);
            EXPECT_EQ(y.scalar_type(), input_type);
            y.to(at::kFloat).pow(2).sum().backward();
            EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
            memory->eval();
            EXPECT_EQ(memory->forward(x).scalar_type(), input_type);
            memory->train();
          }
        }
      }
    }
  }
}

TEST(MemoryLayer, RunningStatisticsOfAnotherTypeMoveToo) {
  const Case c{"statistics", small([](auto& o) { o.query_norm = QueryNorm::batch, o.width = 16; }), 14, 0, true};
  const auto [table, memory] = build<ProductKeyMemory>(c, at::kFloat);
  memory->forward(torch::randn({50, 16}, at::kDouble) + 3);
  EXPECT_NEAR(memory->norm.running_mean.mean().item<double>(), 0.3, 0.05);
}

// So that a wrapper may require a gradient of every parameter.
TEST(MemoryLayer, EveryParameterGetsAGradient) {
  for (const Case& c : cases()) {
    if (c.options.top_k == 1) continue;
    SCOPED_TRACE(c.name);
    const auto [table, memory] = build<ProductKeyMemory>(c);
    memory->forward(torch::randn({9, c.options.width}, at::kDouble)).pow(2).sum().backward();
    for (const auto& parameter : memory->named_parameters()) {
      EXPECT_TRUE(parameter.value().grad().defined()) << parameter.key();
    }
  }
}

TEST(MemoryLayer, StandsInASequential) {
  const auto table = std::make_shared<LocalTable>("values", 14, 6);
  torch::nn::Sequential network(torch::nn::Linear(3, 6), std::make_shared<ProductKeyMemory>("a", small(), table, 1),
                                std::make_shared<FlatKeyMemory>("b", small(), table, 1),
                                std::make_shared<PeerMemory>("c", small(), table, table, 1), torch::nn::Linear(6, 2));
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

TEST(MemoryLayer, ObserversAreToldOfEachReadOnceUnderActivationCheckpointing) {
  const auto [table, memory] = build<ProductKeyMemory>({"checkpointed", small()});
  const auto usage = std::make_shared<Usage>(14);
  const ObserverScope counting(*memory, usage);
  const Tensor x = torch::randn({4, 6}, at::kDouble).requires_grad_();
  Checkpointed::apply(x, memory.get()).sum().backward();
  EXPECT_TRUE(x.grad().defined() && !table->store().references().empty());
  EXPECT_EQ(usage->metrics().reads, 4 * 2 * 3);
}

TEST(MemoryLayer, AnObserverSeesTrainingAndEvaluationWhileItIsGiven) {
  const auto [table, memory] = build<ProductKeyMemory>({"observed", small()});
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

TEST(ProductKeyMemory, ReadsWithoutGradientLeaveNoReferences) {
  const auto [table, memory] = build<ProductKeyMemory>({"plain", small()});
  const torch::NoGradGuard guard;
  memory->forward(torch::randn({4, 6}, at::kDouble));
  EXPECT_TRUE(table->store().references().empty());
}

TEST(ProductKeyMemory, OptionsThatDoNotFitAreRefused) {
  using O = ProductKeyMemoryOptions;
  const std::vector<std::pair<std::string, std::function<void(O&)>>> bad = {
      {"width", [](O& o) { o.width = 0; }},
      {"heads", [](O& o) { o.heads = 0; }},
      {"key_width", [](O& o) { o.key_width = 5; }},
      {"top_k", [](O& o) { o.top_k = 0; }},
      {"top_k", [](O& o) { o.top_k = 15; }},
      {"query_hidden", [](O& o) { o.query_hidden = {3, 0}; }},
      {"row_offset", [](O& o) { o.row_offset = -1; }},
      {"dropout", [](O& o) { o.query_dropout = 1; }},
      {"table's width", [](O& o) { o.width = 4; }},
  };
  auto table = std::make_shared<LocalTable>("values", 14, 6);
  for (const auto& [word, change] : bad) {
    try {
      ProductKeyMemory("memory", small(change), table, 1);
      ADD_FAILURE() << word << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_THAT(error.what(), testing::HasSubstr(word));
    }
  }
  EXPECT_THROW(ProductKeyMemory("memory", small(), nullptr, 1), Error);
  const auto net = std::make_shared<IdentityQueryNet>();
  EXPECT_THROW(ProductKeyMemory("memory", small([](auto& o) { o.query_hidden = {3}; }), table, 1, net), Error);
  ProductKeyMemory narrow("memory", small(), table, 1, net);  // 6 features where heads * key_width is 16
  EXPECT_THROW(narrow.forward(at::ones({4, 6})), c10::Error);
  EXPECT_THROW(ProductKeyMemory("memory", small(), table, 1).zero_output_map(), Error);
}

TEST(ProductKeyMemory, BadInputIsRefused) {
  const auto [table, memory] = build<ProductKeyMemory>({"input", small()});
  EXPECT_THROW(memory->forward(torch::randn({4, 5}, at::kDouble)), c10::Error);
  EXPECT_THROW(memory->forward(at::ones({4, 6}, at::kLong)), c10::Error);
  EXPECT_THROW(
      memory->forward(at::ones({4, 6}, at::kDouble), {.token_mask = at::ones({3}, at::kBool), .generator = {}}),
      c10::Error);
}

TEST(SubKeys, CoverAllRowsWithoutAWholeSpareRow) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 14, 16, 17, 16384, 16385, 1048575, 1048577}) {
    const auto [n1, n2] = sub_keys_for(rows);
    EXPECT_GE(n1 * n2, rows);
    EXPECT_LT((n1 - 1) * n2, rows);
    EXPECT_LE(n1, n2);
    EXPECT_LT((n2 - 1) * (n2 - 1), rows);
  }
}

}  // namespace
}  // namespace loci
