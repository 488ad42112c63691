#include "loci/nn/small/slots.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "loci/base/check.h"
#include "tests/op_harness.h"
#include "tests/temporary_folder.h"

// Legend: B texts, N sentences, r slots, d width, S width of the decoder's state.

namespace loci {
namespace {

using torch::Tensor;

constexpr int64_t B = 2, N = 3, r = 2, d = 3, S = 4, T = 3;  // T: steps of the decoder

Tensor number(double value) {
  return torch::tensor(value, torch::kDouble);
}

// The formulas one number after another, as scalar tensors that autograd follows.
struct SlowSlots {
  const CompressToSlots& compress;
  const SlotMemory& memory;

  using Matrix = std::vector<std::vector<Tensor>>;

  static std::vector<Tensor> softmax(const std::vector<Tensor>& score) {
    Tensor sum = number(0);
    for (const Tensor& s : score) sum = sum + s.exp();
    std::vector<Tensor> weight;
    weight.reserve(score.size());
    for (const Tensor& s : score) weight.push_back(s.exp() / sum);
    return weight;
  }
  static std::vector<Tensor> times(const Tensor& matrix, const std::vector<Tensor>& x) {
    std::vector<Tensor> y;
    for (int64_t i = 0; i < matrix.size(0); ++i) {
      Tensor sum = number(0);
      for (int64_t j = 0; j < matrix.size(1); ++j) sum = sum + matrix[i][j] * x[static_cast<size_t>(j)];
      y.push_back(sum);
    }
    return y;
  }
  static std::vector<Tensor> row(const Tensor& x) {
    std::vector<Tensor> numbers;
    for (int64_t i = 0; i < x.size(0); ++i) numbers.push_back(x[i]);
    return numbers;
  }

  // A of one text [r][its sentences]: those whose mask is true.
  Matrix weights(const Tensor& H, const std::vector<int64_t>& present) const {
    Matrix score(r);
    for (const int64_t n : present) {
      std::vector<Tensor> inner = times(compress.inner_weight, row(H[n]));
      for (Tensor& i : inner) i = i.tanh();
      const std::vector<Tensor> of_slots = times(compress.slot_weight, inner);
      for (size_t k = 0; k < r; ++k) score[k].push_back(of_slots[k]);
    }
    for (auto& of_slot : score) of_slot = softmax(of_slot);
    return score;
  }

  static Tensor penalty(const Matrix& A) {
    Tensor sum = number(0);
    for (size_t k = 0; k < r; ++k) {
      for (size_t l = 0; l < r; ++l) {
        Tensor product = number(k == l ? -1 : 0);
        for (size_t n = 0; n < A[k].size(); ++n) product = product + A[k][n] * A[l][n];
        sum = sum + product * product;
      }
    }
    return sum;
  }

  // What T steps read of one text, its last slots and its penalty, as one list of numbers.
  Tensor run(const Tensor& H, const std::vector<int64_t>& present, const Tensor& states) const {
    const Matrix A = weights(H, present);
    Matrix M(r, std::vector<Tensor>(d, number(0)));
    for (size_t k = 0; k < r; ++k) {
      for (size_t i = 0; i < d; ++i) {
        for (size_t n = 0; n < present.size(); ++n)
          M[k][i] = M[k][i] + A[k][n] * H[present[n]][static_cast<int64_t>(i)];
      }
    }
    std::vector<Tensor> found = {penalty(A)};
    for (int64_t t = 0; t < T; ++t) {
      const std::vector<Tensor> s = row(states[t]), query = times(memory.query_weight, s);
      std::vector<Tensor> score;
      for (size_t k = 0; k < r; ++k) {
        Tensor sum = number(0);
        for (size_t i = 0; i < d; ++i) sum = sum + M[k][i] * query[i];
        score.push_back(sum / std::sqrt(static_cast<double>(d)));
      }
      const std::vector<Tensor> w = softmax(score), add = times(memory.add_weight, s);
      std::vector<Tensor> erase = times(memory.erase_weight, s);
      for (size_t i = 0; i < d; ++i) {
        Tensor content = number(0);
        for (size_t k = 0; k < r; ++k) content = content + w[k] * M[k][i];
        found.push_back(content);
      }
      for (size_t i = 0; i < d; ++i) {
        const Tensor e = (erase[i] + memory.erase_bias[static_cast<int64_t>(i)]).sigmoid(), a = add[i].tanh();
        for (size_t k = 0; k < r; ++k) M[k][i] = M[k][i] * (1 - w[k] * e) + w[k] * (e * a);
      }
    }
    for (const auto& slot : M) found.insert(found.end(), slot.begin(), slot.end());
    return torch::stack(found);
  }
};

struct Slots : testing::Test {
  Slots() {
    torch::manual_seed(0);
    compress.to(torch::kDouble);
    memory.to(torch::kDouble);
  }
  // As SlowSlots::run, of all texts: [B, ..].
  Tensor run(const Tensor& H, const Tensor& states, const Tensor& mask) const {
    const CompressedSlots start = compress.forward(H, mask);
    Tensor M = start.slots;
    std::vector<Tensor> found = {start.penalty.unsqueeze(1)};
    for (int64_t t = 0; t < T; ++t) {
      const SlotRead read = memory.read(M, states.select(1, t));
      found.push_back(read.content);
      M = memory.write(M, states.select(1, t), read.weight);
    }
    found.push_back(M.flatten(1));
    return torch::cat(found, 1);
  }

  CompressToSlots compress{"slots", d, r, 5, /*inner=*/5};
  SlotMemory memory{"memory", d, S, 6};
  Tensor H = torch::randn({B, N, d}, torch::kDouble), states = torch::randn({B, T, S}, torch::kDouble);
  Tensor mask = torch::tensor({{true, true, true}, {true, false, true}});
};

TEST_F(Slots, AreTheFormulasInLoopsWithTheirGradients) {
  const SlowSlots slow{compress, memory};
  std::vector<Tensor> leaves = {H.requires_grad_(), states.requires_grad_()};
  for (const auto& p : compress.parameters()) leaves.push_back(p);
  for (const auto& p : memory.parameters()) leaves.push_back(p);
  const Tensor got = run(H, states, mask);
  const Tensor expected = torch::stack({slow.run(H[0], {0, 1, 2}, states[0]), slow.run(H[1], {0, 2}, states[1])});
  EXPECT_TRUE(torch::allclose(got, expected, 1e-12, 1e-12)) << got << expected;
  const Tensor grad = torch::randn_like(expected);
  const auto of_got = torch::autograd::grad({got}, leaves, {grad});
  const auto of_expected = torch::autograd::grad({expected}, leaves, {grad});
  for (size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_TRUE(torch::allclose(of_got[i], of_expected[i], 1e-11, 1e-11)) << i << of_got[i] << of_expected[i];
    EXPECT_GT(of_got[i].abs().max().item<double>(), 0) << i;
  }
  EXPECT_TRUE(torch::equal(of_got[0][1][1], torch::zeros({d}, torch::kDouble)));  // of a masked sentence
}

TEST_F(Slots, GradientsAreFiniteDifferences) {
  harness::expect_finite_differences([&](const std::vector<Tensor>& inputs) { return run(inputs[0], inputs[1], mask); },
                                     {H.requires_grad_(), states.requires_grad_()});
}

TEST_F(Slots, MaskedSentencesNeverChangeABit) {
  const CompressedSlots expected = compress.forward(H, mask);
  for (const double value : {0.0, -7e30, std::nan(""), std::numeric_limits<double>::infinity()}) {
    Tensor changed = H.clone();
    changed[1][1].fill_(value);
    const CompressedSlots got = compress.forward(changed, mask);
    EXPECT_TRUE(harness::same_bits(got.slots, expected.slots)) << value;
    EXPECT_TRUE(harness::same_bits(got.weight, expected.weight)) << value;
    EXPECT_TRUE(harness::same_bits(got.penalty, expected.penalty)) << value;
    EXPECT_TRUE(harness::same_bits(run(changed, states, mask), run(H, states, mask))) << value;
  }
  EXPECT_EQ(expected.weight[1].select(1, 1).abs().max().item<double>(), 0);
  EXPECT_TRUE(torch::allclose(expected.weight.sum(2), torch::ones({B, r}, torch::kDouble)));
}

TEST_F(Slots, MaskedSlotsAreNotRead) {
  const Tensor all = torch::randn({B, N, d}, torch::kDouble), state = states.select(1, 0);
  Tensor changed = all.clone();
  changed[1][1].fill_(std::nan(""));
  const SlotRead got = memory.read(changed, state, mask), expected = memory.read(all, state, mask);
  EXPECT_TRUE(harness::same_bits(got.content, expected.content));
  EXPECT_TRUE(harness::same_bits(got.weight, expected.weight));
  const SlotRead alone = memory.read(all.narrow(0, 1, 1).index_select(1, torch::tensor({0, 2})), state.narrow(0, 1, 1));
  EXPECT_TRUE(torch::allclose(alone.content[0], got.content[1]));
}

TEST_F(Slots, ATextWithoutSentencesHasEmptySlotsAndNoGradient) {
  const Tensor none = torch::zeros({B, N}, torch::kBool);
  const CompressedSlots got = compress.forward(H.requires_grad_(), none);
  EXPECT_EQ(got.slots.abs().max().item<double>(), 0);
  const auto grad = torch::autograd::grad({got.slots.sum() + got.penalty.sum()}, {H, compress.inner_weight});
  EXPECT_EQ(grad[0].abs().max().item<double>(), 0);
  EXPECT_EQ(grad[1].abs().max().item<double>(), 0);
  EXPECT_EQ(compress.forward(torch::zeros({B, 0, d}, torch::kDouble)).slots.abs().max().item<double>(), 0);
}

// Whatever the states are, and for as long as one writes.
TEST(SlotMemory, EntriesStayWithinTheGreaterOfTheirStartAndOne) {
  torch::manual_seed(1);
  SlotMemory memory("memory", 8, 6, 2);
  const torch::NoGradGuard guard;
  memory.add_weight.mul_(30);
  memory.erase_bias.fill_(3);
  for (const double size : {0.1, 1.0, 5.0}) {
    Tensor M = torch::randn({4, 5, 8}) * size;
    const double most = std::max(1.0, M.abs().max().item<double>());
    for (int64_t t = 0; t < 300; ++t) {
      const Tensor state = torch::randn({4, 6}) * 3;
      M = memory.write(M, state, memory.read(M, state).weight);
      ASSERT_LE(M.abs().max().item<double>(), most * (1 + 1e-6)) << size << " step " << t;
    }
  }
}

TEST(SlotMemory, AFirstWriteChangesLittle) {
  const SlotMemory memory("memory", 8, 6, 2);
  EXPECT_TRUE(torch::equal(memory.erase_bias, torch::full({8}, -2.0F)));
  const Tensor M = torch::ones({1, 4, 8}), state = torch::zeros({1, 6});
  const SlotRead read = memory.read(M, state);
  EXPECT_TRUE(torch::equal(read.weight, torch::full({1, 4}, 0.25F)));
  const double kept = 1 - 0.25 / (1 + std::exp(2.0));
  EXPECT_TRUE(torch::allclose(memory.write(M, state, read.weight), torch::full({1, 4, 8}, kept)));
}

TEST(SlotPenalty, IsZeroForSlotsWithASentenceOfTheirOwn) {
  Tensor weight = torch::zeros({2, 2, 3});
  weight[0][0][1] = weight[0][1][2] = 1;  // each its own
  weight[1][0][1] = weight[1][1][1] = 1;  // both the same one: |[[0, 1], [1, 0]]|^2
  EXPECT_TRUE(torch::equal(slot_penalty(weight), torch::tensor({0.0F, 2.0F})));
  // Equal shares of N sentences: A A^T is 1 / N everywhere.
  EXPECT_NEAR(slot_penalty(torch::full({1, 2, 4}, 0.25))[0].item<double>(), 2 * 0.75 * 0.75 + 2 * 0.25 * 0.25, 1e-6);
}

TEST(CompressToSlots, StartsByItsSeedAndNameAndIsExactUnderAutocast) {
  const CompressToSlots slots("slots", 6, 4, 3), same("slots", 6, 4, 3), other("other", 6, 4, 3);
  EXPECT_TRUE(torch::equal(slots.slot_weight, same.slot_weight));
  EXPECT_FALSE(torch::equal(slots.slot_weight, other.slot_weight));
  EXPECT_EQ(slots.inner_weight.sizes(), (std::vector<int64_t>{6, 6}));
  const Tensor H = torch::randn({2, 5, 6});
  const CompressedSlots expected = slots.forward(H);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const CompressedSlots got = slots.forward(H);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_TRUE(harness::same_bits(got.slots, expected.slots));
  EXPECT_TRUE(harness::same_bits(got.penalty, expected.penalty));
}

TEST(CompressToSlots, LearnsASentenceForEachSlot) {
  torch::manual_seed(2);
  CompressToSlots slots("slots", 8, 4, 3);
  const Tensor H = torch::randn({1, 12, 8});
  torch::optim::Adam adam(slots.parameters(), torch::optim::AdamOptions(0.02));
  const double before = slots.forward(H).penalty.item<double>();
  for (int64_t step = 0; step < 300; ++step) {
    adam.zero_grad();
    slots.forward(H).penalty.sum().backward();
    adam.step();
  }
  EXPECT_GT(before, 2);
  EXPECT_LT(slots.forward(H).penalty.item<double>(), 0.1);
}

TEST(SlotMemory, RefusesBadInputInThreeParts) {
  const SlotMemory memory("memory", 3, 4, 0);
  const CompressToSlots compress("slots", 3, 2, 0);
  expect_error(ExitCode::usage, "slots: slots must be at least 1, got 0", [] { CompressToSlots("slots", 3, 0, 0); });
  expect_error(ExitCode::usage, "memory: state width must be at least 1, got -1",
               [] { SlotMemory("memory", 3, -1, 0); });
  const auto says = [](const std::function<void()>& run, const std::string& message) {
    EXPECT_THAT(harness::message_of(run), testing::HasSubstr(message));
  };
  says([&] { compress.forward(torch::zeros({2, 5})); },
       "CompressToSlots: sentences must be [B, N, 3] of a floating type, got [2, 5] of Float");
  says([&] { compress.forward(torch::zeros({2, 5, 3}), torch::zeros({2, 4}, torch::kBool)); },
       "CompressToSlots: mask must be [B, N] of Bool with 2 and 5, got [2, 4] of Bool");
  says([&] { memory.read(torch::zeros({2, 0, 3}), torch::zeros({2, 4})); },
       "SlotMemory: slots must be [B, r, 3] of a floating type with r >= 1, got [2, 0, 3] of Float");
  says([&] { memory.read(torch::zeros({2, 5, 3}), torch::zeros({2, 3})); },
       "SlotMemory: state must be [2, 4] of a floating type, got [2, 3] of Float");
  says([&] { memory.write(torch::zeros({2, 5, 3}), torch::zeros({2, 4}), torch::zeros({2, 3})); },
       "SlotMemory: weight must be [2, 5] of a floating type, got [2, 3] of Float");
}

}  // namespace
}  // namespace loci
