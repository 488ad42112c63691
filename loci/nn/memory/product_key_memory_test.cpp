// Legend: T tokens, d width, H heads, K top_k, w half a key's width, R rows, D width of a row.
#include "loci/nn/memory/product_key_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <string>

#include "loci/base/check.h"
#include "loci/nn/memory/flat_key_memory.h"
#include "loci/table/local_table.h"
#include "tests/memory_cases.h"
#include "tests/memory_reference.h"
#include "tests/row_gradient.h"

namespace loci {
namespace {

using at::Tensor;

template <class Memory>
void expect_reference(const MemoryCase& c) {
  SCOPED_TRACE(c.name);
  const auto [table, memory] = built_memory<Memory>(c);
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
  for (const MemoryCase& c : memory_cases()) expect_reference<ProductKeyMemory>(c);
}

TEST(FlatKeyMemory, EqualsTheReferenceWithAllGradients) {
  for (const MemoryCase& c : memory_cases()) {
    if (c.options.addressing == RowAddressing::mask) expect_reference<FlatKeyMemory>(c);
  }
}

TEST(FlatKeyMemory, WithAllPairsOfSubKeysIsTheProductKeyMemory) {
  const MemoryCase c{"pairs", small_memory([](auto& o) { o.normalise_keys = true; }), 12};
  const auto [table, product] = built_memory<ProductKeyMemory>(c);
  const auto [flat_table, flat] = built_memory<FlatKeyMemory>(c);
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
  for (const MemoryCase& c : memory_cases()) {
    if (c.name != "swilu" && c.name != "unit_keys" && c.name != "batch") continue;
    SCOPED_TRACE(c.name);
    const auto [table, memory] = built_memory<ProductKeyMemory>(c);
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

TEST(ProductKeyMemory, SoftmaxOverOneRowGivesKeysAndQueryNetExactlyNoGradient) {
  testing::internal::CaptureStderr();
  const auto [table, memory] = built_memory<ProductKeyMemory>({"one", small_memory([](auto& o) { o.top_k = 1; })});
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("top_k = 1"));
  memory->forward(torch::randn({8, 6}, at::kDouble)).pow(2).sum().backward();
  for (const Tensor& still : {memory->keys1, memory->keys2, dynamic_cast<MlpQueryNet&>(*memory->query_net).weight[0]}) {
    EXPECT_TRUE(!still.grad().defined() || still.grad().abs().max().item<double>() == 0);
  }
  EXPECT_GT(table->store().references().sum().gradient.abs().max().item<double>(), 0);
}

TEST(ProductKeyMemory, ReadsOfAHeadAreTopK) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"reads", small_memory()});
  const auto reads = memory->read_with_indices(torch::randn({4, 6}, at::kDouble));
  EXPECT_EQ(reads.index.sizes(), (std::vector<int64_t>{4, 2, 3}));
  EXPECT_TRUE(torch::allclose(reads.weight.sum(-1), at::ones({4, 2}, at::kDouble)));
}

TEST(ProductKeyMemory, ATableSharedByThreeLayersGetsTheSumOfTheirGradients) {
  const MemoryCase c{"shared", small_memory()};
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
  const auto one = built_memory<ProductKeyMemory>({"one", small_memory()}),
             two = built_memory<ProductKeyMemory>({"two", small_memory()});
  one.memory->forward(torch::randn({4, 6}, at::kDouble)).sum().backward();
  EXPECT_FALSE(one.table->store().references().empty());
  EXPECT_TRUE(two.table->store().references().empty());
  for (const auto& parameter : two.memory->parameters()) EXPECT_FALSE(parameter.grad().defined());
}

TEST(ProductKeyMemory, TheTableIsNoParameter) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"names", small_memory()});
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
  };
  auto table = std::make_shared<LocalTable>("values", 14, 6);
  for (const auto& [word, change] : bad) {
    try {
      ProductKeyMemory("memory", small_memory(change), table, 1);
      ADD_FAILURE() << word << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_THAT(error.what(), testing::HasSubstr(word));
    }
  }
  EXPECT_THROW(ProductKeyMemory("memory", small_memory(), nullptr, 1), Error);
  const auto net = std::make_shared<IdentityQueryNet>();
  EXPECT_THROW(ProductKeyMemory("memory", small_memory([](auto& o) { o.query_hidden = {3}; }), table, 1, net), Error);
  ProductKeyMemory narrow("memory", small_memory(), table, 1, net);  // 6 features where heads * key_width is 16
  EXPECT_THROW(narrow.forward(at::ones({4, 6})), c10::Error);
  EXPECT_THROW(ProductKeyMemory("memory", small_memory(), table, 1).zero_output_map(), Error);
}

TEST(ProductKeyMemory, BadInputIsRefused) {
  const auto [table, memory] = built_memory<ProductKeyMemory>({"input", small_memory()});
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
