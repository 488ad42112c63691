#include "loci/models/slot_summariser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/check.h"
#include "tests/op_harness.h"
#include "tests/temporary_folder.h"

// Legend: B texts, N sentences, L words of a sentence, T words of a summary, d width, V vocabulary.

namespace loci {
namespace {

using torch::Tensor;

constexpr int64_t kSummaryBegin = 1, kSummaryEnd = 2, V = 9;
const std::vector<SummaryMemory> kMemories = {SummaryMemory::none, SummaryMemory::attention, SummaryMemory::read,
                                              SummaryMemory::read_write};

SlotSummariserOptions options_of(SummaryMemory memory) {
  return {.vocabulary = V, .memory = memory, .slots = 2, .penalty = 0.5, .embedding = 3, .width = 4};
}

Tensor words_of(at::IntArrayRef sizes) {
  return torch::randint(3, V, sizes, torch::kLong);
}

// Cho et al. 2014, with the framework's order of gates: reset, update, new.
Tensor gru_step(const Tensor& x, const Tensor& h, const std::vector<Tensor>& p) {
  const auto of_input = (p[0].mv(x) + p[2]).chunk(3), of_state = (p[1].mv(h) + p[3]).chunk(3);
  const Tensor reset = (of_input[0] + of_state[0]).sigmoid(), update = (of_input[1] + of_state[1]).sigmoid();
  const Tensor fresh = (of_input[2] + reset * of_state[2]).tanh();
  return (1 - update) * fresh + update * h;
}

// The model one text and one step after another, from the parameters' names.
struct SlowSummariser {
  explicit SlowSummariser(const SlotSummariser& model) : options(model.options()) {
    for (const auto& p : model.named_parameters()) parameters[p.key()] = p.value();
  }

  std::vector<Tensor> gru(const std::string& prefix) const {
    return {parameters.at(prefix + "_input_weight"), parameters.at(prefix + "_state_weight"),
            parameters.at(prefix + "_input_bias"), parameters.at(prefix + "_state_bias")};
  }
  // States of a sequence, and the last ones.
  std::pair<std::vector<Tensor>, Tensor> both_ways(const std::string& name, const std::vector<Tensor>& x) const {
    const size_t count = x.size();
    std::vector<Tensor> states(count);
    Tensor there = torch::zeros({options.width / 2}), back = there;
    for (size_t i = 0; i < count; ++i) states[i] = there = gru_step(x[i], there, gru(name + ".forward"));
    for (size_t i = count; i-- > 0;) {
      back = gru_step(x[i], back, gru(name + ".backward"));
      states[i] = torch::cat({states[i], back});
    }
    return {states, torch::cat({there, back})};
  }

  // text [sentences][words], summary [T]: the sum of -log p, and the penalty.
  std::pair<Tensor, Tensor> loss(const std::vector<std::vector<int64_t>>& text, const std::vector<int64_t>& summary) {
    std::vector<Tensor> v;
    for (const auto& sentence : text) {
      std::vector<Tensor> x;
      for (const int64_t word : sentence) x.push_back(parameters.at("embedding")[word]);
      v.push_back(both_ways("words", x).second);
    }
    const auto [H, last] = both_ways("sentences", v);
    Tensor s = (parameters.at("start_weight").mv(last) + parameters.at("start_bias")).tanh(), M = torch::stack(H);
    Tensor penalty = torch::zeros({});
    if (options.has_slots()) {
      const Tensor inner = M.matmul(parameters.at("compress.inner_weight").t()).tanh();
      const Tensor A = inner.matmul(parameters.at("compress.slot_weight").t()).softmax(0).t();
      M = A.matmul(M);
      penalty = (A.matmul(A.t()) - torch::eye(A.size(0))).square().sum();
    }
    Tensor sum = torch::zeros({});
    int64_t before = kSummaryBegin;
    for (const int64_t word : summary) {
      Tensor y = parameters.at("embedding")[before], content, w;
      if (options.memory != SummaryMemory::none) {
        w = (M.mv(parameters.at("memory.query_weight").mv(s)) / std::sqrt(4.0)).softmax(0);
        content = w.matmul(M);
        y = torch::cat({y, content});
      }
      s = gru_step(y, s, gru("decoder"));
      if (options.memory == SummaryMemory::read_write) {
        const Tensor e = (parameters.at("memory.erase_weight").mv(s) + parameters.at("memory.erase_bias")).sigmoid();
        const Tensor a = parameters.at("memory.add_weight").mv(s).tanh();
        M = M * (1 - torch::outer(w, e)) + torch::outer(w, e * a);
      }
      const Tensor seen = content.defined() ? torch::cat({s, content}) : s;
      sum = sum - (parameters.at("output_weight").mv(seen) + parameters.at("output_bias")).log_softmax(0)[word];
      before = word;
    }
    return {sum, penalty};
  }

  SlotSummariserOptions options;
  std::map<std::string, Tensor> parameters;
};

// Texts of 3, 2 and 1 sentences with 1 to 3 words, and summaries of 3, 2 and 1 words.
const std::vector<std::vector<std::vector<int64_t>>> kTexts = {{{3, 4, 5}, {6}, {7, 8}}, {{5, 5}, {4, 3, 8}}, {{8}}};
const std::vector<std::vector<int64_t>> kSummaries = {{4, 5, kSummaryEnd}, {6, kSummaryEnd}, {kSummaryEnd}};

std::pair<Tensor, Tensor> padded() {
  Tensor words = torch::zeros({3, 4, 3}, torch::kLong), summary = torch::full({3, 3}, -1, torch::kLong);
  for (size_t b = 0; b < 3; ++b) {
    const auto row = static_cast<int64_t>(b);
    for (size_t n = 0; n < kTexts[b].size(); ++n) {
      const Tensor sentence = torch::tensor(kTexts[b][n]);
      words[row][static_cast<int64_t>(n)].narrow(0, 0, sentence.numel()).copy_(sentence);
    }
    summary[row].narrow(0, 0, static_cast<int64_t>(kSummaries[b].size())).copy_(torch::tensor(kSummaries[b]));
  }
  return {words, summary};
}

TEST(SlotSummariser, IsTheFormulasStepByStepForTextsOfAnyLength) {
  for (const SummaryMemory memory : kMemories) {
    const SlotSummariser model(options_of(memory), 3);
    SlowSummariser slow(model);
    const auto [words, summary] = padded();
    const SummaryLoss got = model.loss(words, summary, kSummaryBegin);
    Tensor sum = torch::zeros({}), penalty = torch::zeros({});
    for (size_t b = 0; b < 3; ++b) {
      const auto [of_words, of_slots] = slow.loss(kTexts[b], kSummaries[b]);
      sum = sum + of_words / 6;
      penalty = penalty + of_slots / 3;
    }
    EXPECT_NEAR(got.words.item<double>(), sum.item<double>(), 1e-5);
    EXPECT_NEAR(got.penalty.item<double>(), penalty.item<double>(), 1e-5);
    const Tensor total = model.options().has_slots() ? sum + 0.5 * penalty : sum;
    EXPECT_NEAR(got.total.item<double>(), total.item<double>(), 1e-5);
    for (const NamedParameter& parameter : model.dense_parameters()) {
      const auto grad = torch::autograd::grad({got.total}, {parameter.value}, {}, true);
      const auto expected = torch::autograd::grad({total}, {parameter.value}, {}, true);
      EXPECT_TRUE(torch::allclose(grad[0], expected[0], 1e-4, 1e-6)) << parameter.name;
    }
  }
}

// Texts whose sentences are all as long are not packed.
TEST(SlotSummariser, WholeTextsAreTheSameAsPackedOnes) {
  torch::manual_seed(0);
  const Tensor words = words_of({2, 3, 4}), summary = words_of({2, 5});
  const Tensor longer = torch::nn::functional::pad(words, torch::nn::functional::PadFuncOptions({0, 2, 0, 1}));
  for (const SummaryMemory memory : kMemories) {
    const SlotSummariser model(options_of(memory), 3);
    const SummaryLoss whole = model.loss(words, summary, kSummaryBegin),
                      packed = model.loss(longer, summary, kSummaryBegin);
    EXPECT_NEAR(whole.total.item<double>(), packed.total.item<double>(), 1e-6);
    EXPECT_TRUE(torch::equal(model.greedy(model.encode(words), kSummaryBegin, kSummaryEnd, 6),
                             model.greedy(model.encode(longer), kSummaryBegin, kSummaryEnd, 6)));
  }
}

// Each word is the likeliest one behind those before it: the one whose loss is least.
TEST(SlotSummariser, GreedyWordsAreTheLikeliestAndEndAtTheEnd) {
  torch::manual_seed(1);
  const Tensor words = words_of({4, 3, 2});
  for (const SummaryMemory memory : kMemories) {
    const SlotSummariser model(options_of(memory), 3);
    const torch::NoGradGuard guard;
    model.named_parameters()["output_bias"][kSummaryEnd] = 0.5;
    const Tensor got = model.greedy(model.encode(words), kSummaryBegin, kSummaryEnd, 5);
    for (int64_t b = 0; b < 4; ++b) {
      bool ended = false;
      for (int64_t t = 0; t < 5; ++t) {
        if (ended) {
          EXPECT_EQ(got[b][t].item<int64_t>(), kSummaryEnd);
          continue;
        }
        double least = 1e9;
        int64_t likeliest = -1;
        for (int64_t word = 0; word < V; ++word) {
          const Tensor whole = torch::cat({got[b].narrow(0, 0, t), torch::tensor({word})}).unsqueeze(0);
          const double of_all = model.loss(words.narrow(0, b, 1), whole, kSummaryBegin).words.item<double>();
          if (of_all < least) least = of_all, likeliest = word;
        }
        EXPECT_EQ(got[b][t].item<int64_t>(), likeliest);
        ended = likeliest == kSummaryEnd;
      }
    }
  }
}

TEST(SlotSummariser, ThePlannedSizesAreThoseOfTheModel) {
  for (const SummaryMemory memory : kMemories) {
    const SlotSummariserOptions options = options_of(memory);
    int64_t count = 0;
    for (const NamedParameter& parameter : SlotSummariser(options, 0).dense_parameters()) {
      count += parameter.value.numel();
      EXPECT_EQ(parameter.embedding, parameter.name == "embedding");
    }
    EXPECT_EQ(options.parameters(), count);
    EXPECT_GT(options.multiply_adds({3, 4, 5}), options.multiply_adds({2, 4, 5}));
  }
}

TEST(SlotSummariser, RefusesBadInputInThreeParts) {
  SlotSummariserOptions odd = options_of(SummaryMemory::none);
  odd.width = 5;
  expect_error(ExitCode::usage, "config: model.width must be even, got 5", [&] { SlotSummariser(odd, 0); });
  const SlotSummariser model(options_of(SummaryMemory::read), 0);
  EXPECT_THAT(harness::message_of([&] { model.encode(torch::zeros({2, 3}, torch::kLong)); }),
              testing::HasSubstr("words must be [B, N, L] of Long with N and L of at least 1, got [2, 3] of Long"));
  EXPECT_THAT(harness::message_of([&] { model.encode(torch::zeros({1, 2, 2}, torch::kLong)); }),
              testing::HasSubstr("a text must have a sentence, and sentences and their words must stand first"));
  const Tensor gap = torch::tensor({3, 3, 0, 0, 3, 0}, torch::kLong).view({1, 3, 2});
  EXPECT_THAT(harness::message_of([&] { model.encode(gap); }), testing::HasSubstr("got gaps or an empty text"));
}

}  // namespace
}  // namespace loci
