#include "loci/nn/small/retrieval_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/op_harness.h"

namespace loci {
namespace {

using torch::Tensor;

constexpr int64_t kMemoryTokens = 11, kStateWidth = 6, kItemLength = 4;

RetrievalMemory make_retrieval(ReadOptions read, bool count_padding = false, bool zero_start = false) {
  return {"memory",
          {.vocabulary = kMemoryTokens,
           .width = kStateWidth,
           .length = kItemLength,
           .count_padding = count_padding,
           .zero_start = zero_start,
           .read = read},
          5};
}

// Items [2, 5, L] with padding behind their tokens; the second of the first sequence and the last two of the second are
// absent.
Tensor padded_items() {
  torch::manual_seed(1);
  Tensor items = torch::randint(1, kMemoryTokens, {2, 5, kItemLength});
  items[0][0].narrow(0, 2, 2).zero_();
  items[0][1].zero_();
  items[1][2].narrow(0, 1, 3).zero_();
  items[1].narrow(0, 3, 2).zero_();
  return items;
}

// Sequence by sequence and token by token, from the formulas.
Tensor retrieval_loop(const RetrievalMemory& memory, const Tensor& hidden, const Tensor& items, const Tensor& mask) {
  const RetrievalMemoryOptions& options = memory.options();
  Tensor result = hidden.clone();
  for (int64_t b = 0; b < hidden.size(0); ++b) {
    std::vector<Tensor> states;
    for (int64_t p = 0; p < hidden.size(1); ++p) {
      if (mask[b][p].item<bool>()) states.push_back(hidden[b][p]);
    }
    const Tensor context = torch::stack(states).mean(0);
    std::vector<std::pair<double, Tensor>> found;  // minus score, r of the item
    for (int64_t j = 0; j < items.size(1); ++j) {
      std::vector<Tensor> rows;
      Tensor mapped = torch::zeros({kStateWidth}) + memory.bias;
      bool there = false;
      for (int64_t l = 0; l < kItemLength; ++l) {
        const auto id = items[b][j][l].item<int64_t>();
        there = there || id != options.padding;
        if (id == options.padding && !options.count_padding) continue;
        rows.push_back(memory.embedding[id]);
        mapped = mapped + memory.position_weight[l] * memory.embedding[id];
      }
      if (!there) continue;
      const Tensor mean = torch::stack(rows).mean(0);
      found.emplace_back(-(mean.dot(context) / mean.norm() / context.norm()).item<double>(), mapped);
    }
    std::stable_sort(found.begin(), found.end(), [](const auto& x, const auto& y) { return x.first < y.first; });
    const auto kept = std::min<size_t>(found.size(), static_cast<size_t>(options.read.top_k));
    for (size_t i = 0; i < kept; ++i) result[b] += found[i].second / static_cast<double>(kept);
  }
  return result;
}

TEST(RetrievalMemory, IsThatOfTheFormulas) {
  const torch::NoGradGuard guard;
  const Tensor items = padded_items(), hidden = torch::randn({2, 7, kStateWidth}), mask = torch::rand({2, 7}) < 0.6;
  ASSERT_TRUE(mask.any(1).all().item<bool>());
  for (const bool count_padding : {false, true}) {
    for (const int64_t top_k : {1, 2, 4}) {
      for (const auto mode : {ReadMode::hard, ReadMode::straight_through}) {
        const RetrievalMemory memory = make_retrieval({.mode = mode, .top_k = top_k}, count_padding);
        const Tensor expected = retrieval_loop(memory, hidden, items, mask);
        EXPECT_TRUE(torch::allclose(memory.forward(hidden, items, mask), expected, 1e-5, 1e-6)) << top_k;
      }
    }
  }
  const RetrievalMemory memory = make_retrieval({.mode = ReadMode::hard});
  const Tensor all = torch::ones({2, 7}, torch::kBool);
  EXPECT_TRUE(torch::allclose(memory.forward(hidden, items), retrieval_loop(memory, hidden, items, all), 1e-5, 1e-6));
}

TEST(RetrievalMemory, WithoutItemsAndAtAZeroStartTheStatesStayAsTheyAre) {
  const Tensor hidden = torch::randn({2, 7, kStateWidth}), items = padded_items();
  for (const auto mode : {ReadMode::soft, ReadMode::top_k, ReadMode::hard, ReadMode::straight_through}) {
    const RetrievalMemory memory = make_retrieval({.mode = mode});
    EXPECT_TRUE(torch::equal(memory.forward(hidden, items.narrow(1, 0, 0)), hidden));
    EXPECT_TRUE(torch::equal(memory.forward(hidden, torch::zeros_like(items)), hidden));
    EXPECT_FALSE(torch::equal(memory.forward(hidden, items), hidden));
    EXPECT_TRUE(torch::equal(make_retrieval({.mode = mode}, false, true).forward(hidden, items), hidden));
  }
}

// The first step of an inserted memory moves a and b, and then everything else gets gradients.
TEST(RetrievalMemory, AZeroStartLearns) {
  RetrievalMemory memory = make_retrieval({.mode = ReadMode::straight_through}, false, true);
  const Tensor hidden = torch::randn({2, 7, kStateWidth}), goal = torch::randn({2, 7, kStateWidth}),
               items = padded_items();
  torch::optim::SGD optimizer(memory.parameters(), torch::optim::SGDOptions(0.1));
  for (int64_t step = 0; step < 2; ++step) {
    optimizer.zero_grad();
    (memory.forward(hidden, items) - goal).square().mean().backward();
    EXPECT_NE(memory.position_weight.grad().abs().min().item<float>(), 0);
    EXPECT_EQ(memory.embedding.grad().abs().sum().item<float>() != 0, step > 0);
    optimizer.step();
  }
}

TEST(RetrievalMemory, MaskedPositionsAndAbsentItemsNeverMatter) {
  const RetrievalMemory memory = make_retrieval({.mode = ReadMode::straight_through});
  const Tensor items = padded_items(), mask = torch::ones({2, 7}, torch::kBool).index_put_({0, 3}, false);
  const Tensor hidden = torch::randn({2, 7, kStateWidth}), other = hidden.clone();
  other[0][3] += 5;
  const Retrieval found = memory.retrieve(hidden, items, mask);
  EXPECT_TRUE(torch::equal(found.added, memory.retrieve(other, items, mask).added));
  EXPECT_FALSE(torch::equal(found.added, memory.retrieve(other, items).added));
  EXPECT_EQ(found.weight[0][1].item<float>(), 0);
  EXPECT_EQ(found.weight[1].narrow(0, 3, 2).sum().item<float>(), 0);
  // An item more that is absent changes nothing.
  const Tensor more = torch::cat({items, torch::zeros({2, 1, kItemLength}, torch::kLong)}, 1);
  EXPECT_TRUE(torch::equal(memory.retrieve(hidden, more, mask).added, found.added));
}

// Eight items of a key and a value; the hidden state is the embedding of one key, and the answer is its value. The
// memory must find the item: the key says nothing of the value. The share of the last batches that it finds.
double found_after_training(ReadMode mode) {
  constexpr int64_t keys = 16, items_each = 8, width = 32, batch = 64, steps = 500, last = 20;
  torch::manual_seed(2);
  const RetrievalMemoryOptions options = {
      .vocabulary = 1 + 2 * keys, .width = width, .length = 2, .read = {.mode = mode, .top_k = 1, .temperature = 0.1}};
  RetrievalMemory memory("memory", options, 3);
  Tensor asked = (torch::randn({keys, width}) / std::sqrt(width)).requires_grad_();
  Tensor answers = (torch::randn({keys, width}) / std::sqrt(width)).requires_grad_();
  std::vector<Tensor> parameters = memory.parameters();
  parameters.insert(parameters.end(), {asked, answers});
  torch::optim::Adam optimizer(parameters, torch::optim::AdamOptions(1e-2));
  double right = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const Tensor key = torch::rand({batch, keys}).argsort(int64_t{1}).narrow(1, 0, items_each);
    const Tensor value = torch::randint(keys, {batch, items_each});
    const Tensor which = torch::randint(items_each, {batch, 1});
    const Tensor items = torch::stack({1 + key, 1 + keys + value}, 2);
    const Tensor hidden = torch::embedding(asked, key.gather(1, which));  // [B, 1, d]
    const Retrieval found = memory.retrieve(hidden, items);
    const Tensor logits = (hidden.squeeze(1) + found.added).matmul(answers.t());
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(logits, value.gather(1, which).squeeze(1)).backward();
    optimizer.step();
    if (step >= steps - last)
      right += found.weight.argmax(1).eq(which.squeeze(1)).to(torch::kDouble).mean().item<double>();
  }
  return right / last;
}

// Why straight_through is the default: the choice of `hard` has no gradient. Chance is 1 / 8.
TEST(RetrievalMemory, StraightThroughLearnsToRetrieveAndHardDoesNot) {
  EXPECT_GT(found_after_training(ReadMode::straight_through), 0.95);
  EXPECT_LT(found_after_training(ReadMode::hard), 0.25);
}

TEST(RetrievalMemory, RefusesBadInputInThreeParts) {
  const RetrievalMemory memory = make_retrieval({.mode = ReadMode::hard});
  const Tensor hidden = torch::zeros({2, 7, kStateWidth}), items = padded_items();
  const auto message = [&](const Tensor& states, const Tensor& ids, const Tensor& mask = {}) {
    return harness::message_of([&] { memory.retrieve(states, ids, mask); });
  };
  EXPECT_THAT(message(torch::zeros({2, 7, 5}), items),
              testing::HasSubstr("RetrievalMemory: hidden must be [B, P, 6] of a floating type, got [2, 7, 5]"));
  EXPECT_THAT(message(hidden, items.to(torch::kInt)),
              testing::HasSubstr("RetrievalMemory: items must be int64 [2, M, 4], got Int [2, 5, 4]"));
  EXPECT_THAT(message(hidden, items + 1), testing::HasSubstr("items must be tokens of 0 to 10, got others"));
  EXPECT_THAT(message(hidden, items - 1), testing::HasSubstr("items must be tokens of 0 to 10, got others"));
  EXPECT_THAT(message(hidden, items, torch::ones({2, 6}, torch::kBool)),
              testing::HasSubstr("RetrievalMemory: token_mask must be bool [2, 7], got Bool [2, 6]"));
  EXPECT_THAT(harness::message_of([] { RetrievalMemory("m", {.vocabulary = 3, .width = 2}, 1); }),
              testing::HasSubstr("m: vocabulary, width and length must be at least 1, got 3, 2 and 0"));
  EXPECT_THAT(
      harness::message_of([] { RetrievalMemory("m", {.vocabulary = 3, .width = 2, .length = 1, .padding = 3}, 1); }),
      testing::HasSubstr("m: padding must be a token of 0 to vocabulary - 1, got 3 of 3"));
}

}  // namespace
}  // namespace loci
