// Legend: B batch, L positions, d width, V vocabulary.
#include "loci/models/transformer_lm.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <string>

#include "loci/base/check.h"
#include "loci/table/row_store.h"
#include "tests/module_state.h"
#include "tests/small_model.h"

namespace loci {
namespace {

using at::Tensor;

// What an n-gram memory adds at its place in a layer (-1: at the embedding), which receives `x`.
enum class Place { embedding, before_attention, with_feed_forward };
using Ngrams = std::function<Tensor(int64_t layer, Place place, const Tensor& x)>;

Tensor no_ngrams(int64_t, Place, const Tensor& x) {
  return at::zeros_like(x);
}

// The model without searched memories in a few lines of float64.
Tensor reference(const std::map<std::string, Tensor>& p, const TransformerLmOptions& o, const Tensor& tokens,
                 const Ngrams& ngrams = no_ngrams) {
  const auto norm = [&](const Tensor& x, const std::string& name) {
    return (x - x.mean(-1, true)) / (x.var(-1, false, true) + 1e-5).sqrt() * p.at(name);
  };
  const int64_t e = o.width / o.heads, length = tokens.size(1);
  const Tensor frequency = (at::arange(e / 2, at::kDouble) * (-2.0 * std::log(1e4) / static_cast<double>(e))).exp();
  const Tensor angle = at::outer(at::arange(length, at::kDouble), frequency);
  const auto rotate = [&](const Tensor& x) {  // [B, h, L, e], pairs are neighbours
    const Tensor even = x.slice(-1, 0, e, 2), odd = x.slice(-1, 1, e, 2);
    return at::stack({even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()}, -1).flatten(-2);
  };
  const Tensor hidden_future = o.causal ? at::ones({length, length}, at::kBool).triu(1) : at::zeros({}, at::kBool);
  Tensor x = p.at("embedding").index({tokens});
  x = x + ngrams(-1, Place::embedding, x);
  for (int64_t i = 0; i < o.layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    x = x + ngrams(i, Place::before_attention, x);
    const auto parts = at::matmul(norm(x, layer + "attention_norm"), p.at(layer + "attention_in").t())
                           .view({tokens.size(0), length, 3, o.heads, e})
                           .permute({2, 0, 3, 1, 4})
                           .unbind(0);
    const Tensor score = at::matmul(rotate(parts[0]), rotate(parts[1]).transpose(-1, -2)) / std::sqrt(double(e));
    const Tensor read = at::matmul(score.masked_fill(hidden_future, -INFINITY).softmax(-1), parts[2]);
    x = x + at::matmul(read.transpose(1, 2).flatten(2), p.at(layer + "attention_out").t());
    const Tensor z = norm(x, layer + "ffn_norm"), h = at::matmul(z, p.at(layer + "ffn_in").t());
    x = x + ngrams(i, Place::with_feed_forward, z);
    x = x + at::matmul(0.5 * h * (1 + (h / std::sqrt(2.0)).erf()), p.at(layer + "ffn_out").t());
  }
  return at::matmul(norm(x, "final_norm"), p.at("embedding").t());
}

TEST(TransformerLm, EqualsTheReferenceWithGradients) {
  const TransformerLmOptions options = small_model();
  TransformerLm model(options, 1);
  model.to(at::kDouble);
  const Tensor tokens = some_tokens(3, 12), input = tokens.narrow(1, 0, 11), target = tokens.narrow(1, 1, 11).clone();
  target[0][3] = -1;
  const Tensor expected = reference(state_of(model), options, input);
  EXPECT_TRUE(torch::allclose(model.forward(input), expected, 1e-10, 1e-12));
  const Tensor truth = at::cross_entropy_loss(expected.flatten(0, 1), target.flatten(), {}, at::Reduction::Mean, -1);
  const Tensor loss = model.loss(input, target);
  EXPECT_NEAR(loss.item<double>(), truth.item<double>(), 1e-12);
  const auto parameters = model.parameters();
  const auto ours = torch::autograd::grad({loss}, parameters), theirs = torch::autograd::grad({truth}, parameters);
  for (size_t i = 0; i < parameters.size(); ++i) EXPECT_TRUE(torch::allclose(ours[i], theirs[i], 1e-8, 1e-11)) << i;
}

TransformerLmOptions two_sided() {
  return small_model([](auto& o) { o.causal = false; });
}

TEST(TransformerLm, AModelThatIsNotCausalEqualsTheReferenceWithGradients) {
  TransformerLm model(two_sided(), 1);
  model.to(at::kDouble);
  const Tensor tokens = some_tokens(3, 11);
  Tensor target = at::full({3, 11}, -100, at::kLong);
  target[0][3] = 4;
  target[0][10] = 22;
  target[2][0] = 0;
  const Tensor expected = reference(state_of(model), model.options(), tokens);
  EXPECT_TRUE(torch::allclose(model.forward(tokens), expected, 1e-10, 1e-12));
  const Tensor truth = at::cross_entropy_loss(expected.flatten(0, 1), target.flatten());
  const Tensor loss = model.loss(tokens, target);
  EXPECT_NEAR(loss.item<double>(), truth.item<double>(), 1e-12);
  const auto parameters = model.parameters();
  const auto ours = torch::autograd::grad({loss}, parameters), theirs = torch::autograd::grad({truth}, parameters);
  for (size_t i = 0; i < parameters.size(); ++i) EXPECT_TRUE(torch::allclose(ours[i], theirs[i], 1e-8, 1e-11)) << i;
  const Tensor nothing = model.loss(tokens, at::full({3, 11}, -100, at::kLong));
  nothing.backward();
  EXPECT_EQ(nothing.item<double>(), 0);
}

// A sequence with padding is the sequence without it.
TEST(TransformerLm, NoPositionAttendsToPadding) {
  for (const bool causal : {true, false}) {
    TransformerLm model(small_model_with_memory(MemoryPlacement::parallel,
                                                [&](auto& o) {
                                                  o.causal = causal;
                                                  o.memory.layers = {0};
                                                  o.memory.layer.query_norm = QueryNorm::batch;
                                                }),
                        1);
    model.to(at::kDouble);
    Tensor tokens = some_tokens(3, 12);
    BlockContext context;
    context.token_mask = at::ones({3, 12}, at::kBool);
    context.token_mask[0].slice(0, 7) = false;
    context.token_mask[2] = false;  // nothing but padding
    const Tensor padded = model.forward(tokens, nullptr, context);
    EXPECT_TRUE(padded.isfinite().all().item<bool>());
    model.eval();
    const Tensor in_evaluation = model.forward(tokens, nullptr, context);
    const Tensor alone = model.forward(tokens.narrow(0, 0, 1).narrow(1, 0, 7));
    EXPECT_TRUE(torch::allclose(in_evaluation.narrow(0, 0, 1).narrow(1, 0, 7), alone, 1e-10, 1e-12)) << causal;
    tokens[0].slice(0, 7) = 5;
    model.train();
    const Tensor other = model.forward(tokens, nullptr, context);
    EXPECT_TRUE(torch::equal(other[0].narrow(0, 0, 7), padded[0].narrow(0, 0, 7))) << causal;
    EXPECT_TRUE(torch::equal(other[1], padded[1])) << causal;
  }
}

TEST(TransformerLm, AModelThatIsNotCausalHasNoCacheAndChecksItsMask) {
  TransformerLm model(two_sided(), 1);
  const auto refused = [&](const std::string& message, const std::function<void()>& action) {
    try {
      action();
      ADD_FAILURE() << message;
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(message));
    }
  };
  refused("TransformerLm: a cache needs a causal model, got causal = false", [&] {
    KeyValueCache cache;
    model.forward(some_tokens(1, 3), &cache);
  });
  for (const Tensor& mask : {at::ones({3, 2}, at::kBool), at::ones({2, 3}, at::kLong)}) {
    refused("TransformerLm: token_mask must be bool [2, 3] like tokens, got ", [&] {
      BlockContext context;
      context.token_mask = mask;
      model.forward(some_tokens(2, 3), nullptr, context);
    });
  }
}

TEST(TransformerLm, ReadsNgramsAtTheirPlace) {
  const auto change = [](NgramInjection injection, NgramPlace at) {
    return [=](TransformerLmOptions& o) {
      o.has_ngram = true;
      o.end_of_text = 4;
      o.ngram.rows = 200;
      o.ngram.at = at;
      o.ngram.layers = {0};
      o.ngram.layer.injection = injection;
      if (injection == NgramInjection::row) o.ngram.layer.orders = {1};
    };
  };
  const std::vector<std::pair<Place, std::function<void(TransformerLmOptions&)>>> kinds = {
      {Place::embedding, change(NgramInjection::sum, NgramPlace::embedding)},
      {Place::with_feed_forward, change(NgramInjection::sum, NgramPlace::layer)},
      {Place::with_feed_forward, change(NgramInjection::row, NgramPlace::layer)},
      {Place::before_attention, change(NgramInjection::gate, NgramPlace::layer)}};
  for (const auto& [expected_place, options] : kinds) {
    TransformerLm model(small_model(options), 1);
    model.to(at::kDouble);
    model.tables().at(0)->store().initialise_normal(3, 0.5);
    const Tensor tokens = some_tokens(3, 12), rows = model.ngram_rows(tokens).at(0);
    const auto [at_layer, memory] = model.ngrams().at(0);
    const auto ngrams = [&, layer_of = at_layer, ngram = memory, place_of = expected_place](int64_t layer, Place place,
                                                                                            const Tensor& x) {
      return layer == layer_of && place == place_of ? ngram->forward(x, rows) : at::zeros_like(x);
    };
    const Tensor expected = reference(state_of(model), model.options(), tokens, ngrams);
    EXPECT_TRUE(torch::allclose(model.forward(tokens), expected, 1e-10, 1e-12)) << static_cast<int>(expected_place);
    EXPECT_FALSE(torch::allclose(expected, reference(state_of(model), model.options(), tokens), 1e-3, 1e-3));
  }
}

TEST(TransformerLm, ALaterTokenDoesNotChangeEarlierLogits) {
  for (const MemoryPlacement placement : kPlacements) {
    TransformerLm model(small_model_with_memory(placement), 1);
    const Tensor tokens = some_tokens(1, 12);
    Tensor changed = tokens.clone();
    changed[0][8] = (changed[0][8] + 1) % 23;
    const Tensor a = model.forward(tokens), b = model.forward(changed);
    EXPECT_TRUE(torch::equal(a.narrow(1, 0, 8), b.narrow(1, 0, 8)));
    EXPECT_FALSE(torch::equal(a.narrow(1, 8, 4), b.narrow(1, 8, 4)));
  }
}

TEST(TransformerLm, CacheGivesTheLogitsOfTheFullForward) {
  for (const MemoryPlacement placement : kPlacements) {
    TransformerLm model(small_model_with_memory(placement), 1);
    model.to(at::kDouble);
    model.eval();
    const torch::NoGradGuard guard;
    const Tensor tokens = some_tokens(2, 12), full = model.forward(tokens);
    KeyValueCache cache;
    std::vector<Tensor> parts;
    int64_t begin = 0;
    for (const int64_t count : {4, 1, 5, 1, 1}) {
      parts.push_back(model.forward(tokens.narrow(1, begin, count), &cache));
      begin += count;
    }
    EXPECT_TRUE(torch::allclose(at::cat(parts, 1), full, 1e-10, 1e-12));
    EXPECT_THROW(model.forward(tokens.narrow(1, 0, 1), &cache), c10::Error);
  }
}

TEST(TransformerLm, TablesAreListedOnceAndApartFromDenseParameters) {
  for (const bool shared : {false, true}) {
    TransformerLm model(small_model_with_memory(MemoryPlacement::parallel,
                                                [&](auto& o) {
                                                  o.memory.layers = {0, 1};
                                                  o.memory.shared_table = shared;
                                                }),
                        1);
    EXPECT_EQ(model.tables().size(), shared ? 1u : 2u);
    EXPECT_EQ(model.memories().size(), 2u);
    EXPECT_EQ(model.memories()[1].first, 1);
    for (const NamedParameter& p : model.dense_parameters()) {
      for (const TablePtr& table : model.tables()) EXPECT_FALSE(p.value.is_alias_of(table->store().values()));
      const bool matrix = p.value.dim() == 2;
      EXPECT_EQ(p.decay, matrix) << p.name;
    }
  }
}

TEST(TransformerLm, APeerMemoryHasTwoTablesThatLearn) {
  for (const bool shared : {false, true}) {
    TransformerLm model(small_model_with_memory(MemoryPlacement::parallel,
                                                [&](auto& o) {
                                                  o.memory.kind = MemoryKind::peer;
                                                  o.memory.layers = {0, 1};
                                                  o.memory.shared_table = shared;
                                                }),
                        1);
    ASSERT_EQ(model.tables().size(), shared ? 2u : 4u);
    EXPECT_EQ(model.tables()[0]->name(), shared ? "memory.values" : "layers.0.memory.values");
    EXPECT_EQ(model.tables()[1]->name(), shared ? "memory.down" : "layers.0.memory.down");
    const Tensor tokens = some_tokens(3, 12);
    model.loss(tokens, tokens).backward();
    for (const TablePtr& table : model.tables()) EXPECT_FALSE(table->store().references().empty()) << table->name();
  }
}

TEST(TransformerLm, StandsInASequential) {
  torch::nn::Sequential network(std::make_shared<TransformerLm>(small_model(), 1), torch::nn::Linear(23, 5));
  EXPECT_EQ(network->forward(some_tokens(2, 7)).sizes(), (std::vector<int64_t>{2, 7, 5}));
}

TEST(TransformerLm, AutocastRunsLinearLayersInBfloat16AndKeepsTheLossFloat32) {
  TransformerLm model(small_model_with_memory(MemoryPlacement::parallel,
                                              [](auto& o) {
                                                o.memory.layer.output = OutputMap::swilu;
                                                o.memory.layer.query_norm = QueryNorm::batch;
                                              }),
                      1);
  const Tensor tokens = some_tokens(3, 12);
  const double plain = model.loss(tokens, tokens).item<double>();
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const Tensor loss = model.loss(tokens, tokens);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  loss.backward();
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  EXPECT_NE(loss.item<double>(), plain);
  EXPECT_NEAR(loss.item<double>(), plain, 0.01 * plain);
  for (const auto& parameter : model.named_parameters()) {
    ASSERT_TRUE(parameter.value().grad().defined()) << parameter.key();
    EXPECT_EQ(parameter.value().grad().scalar_type(), at::kFloat);
    EXPECT_TRUE(parameter.value().grad().isfinite().all().item<bool>());
  }
}

TEST(TransformerLm, MemoryInputsAreWhatTheMemoryReceivesAndChangeNothing) {
  TransformerLm model(small_model_with_memory(MemoryPlacement::parallel,
                                              [](auto& o) {
                                                o.memory.layers = {0, 1};
                                                o.memory.layer.query_norm = QueryNorm::batch;
                                              }),
                      1);
  const Tensor tokens = some_tokens(3, 12);
  const Tensor before = model.memories()[0].second->norm.running_mean.clone();
  const auto inputs = model.memory_inputs(tokens);
  EXPECT_TRUE(model.is_training());
  EXPECT_TRUE(torch::equal(model.memories()[0].second->norm.running_mean, before));
  ASSERT_EQ(inputs.size(), 2u);
  EXPECT_EQ(inputs[1].sizes(), (std::vector<int64_t>{36, 16}));
  // Layer norm with gain 1: mean 0, variance 1.
  EXPECT_LT(inputs[0].mean(-1).abs().max().item<double>(), 1e-5);
  EXPECT_NEAR(inputs[0].var(-1, false).mean().item<double>(), 1, 1e-1);
}

TEST(TransformerLm, AFailureLeavesTheModelInTraining) {
  TransformerLm model(small_model_with_memory(MemoryPlacement::parallel), 1);
  EXPECT_THROW(model.memory_inputs(at::zeros({1, 13}, at::kLong)), c10::Error);  // beyond the context
  EXPECT_TRUE(model.is_training());
}

TEST(TransformerLm, BadTokensAreRefused) {
  TransformerLm model(small_model(), 1);
  EXPECT_THROW(model.forward(at::zeros({1, 13}, at::kLong)), c10::Error);
  EXPECT_THROW(model.forward(at::zeros({5}, at::kLong)), c10::Error);
  EXPECT_THROW(model.forward(at::zeros({1, 5})), c10::Error);
  EXPECT_THROW(model.forward(at::full({1, 5}, 23, at::kLong)), c10::Error);
  EXPECT_THROW(model.loss(at::zeros({1, 5}, at::kLong), at::zeros({1, 4}, at::kLong)), c10::Error);
}

}  // namespace
}  // namespace loci
