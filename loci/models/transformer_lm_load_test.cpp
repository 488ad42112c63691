// Weights of a trained model in another one: insertion of memories, and names and shapes that do not fit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/models/transformer_lm.h"
#include "loci/table/row_store.h"
#include "tests/module_state.h"
#include "tests/small_model.h"

namespace loci {
namespace {

using at::Tensor;

// Retrofit: insertion into a trained model.
struct Retrofit {
  MemoryPlacement placement;
  std::function<void(TransformerLmOptions&)> zero;
  std::string moves_first;  // "" : the values
};

std::vector<Retrofit> retrofits() {
  std::vector<Retrofit> result;
  for (const MemoryPlacement placement : {MemoryPlacement::parallel, MemoryPlacement::after}) {
    result.push_back({placement, [](auto& o) { o.memory.start = MemoryStart::zero_values; }, ""});
    result.push_back({placement,
                      [](auto& o) {
                        o.memory.start = MemoryStart::zero_output;
                        o.memory.layer.output = OutputMap::swilu;
                      },
                      "output"});
    result.push_back({placement,
                      [](auto& o) {
                        o.memory.kind = MemoryKind::flat;
                        o.memory.start = MemoryStart::zero_values;
                      },
                      ""});
  }
  return result;
}

TEST(TransformerLmLoad, AnInsertedZeroMemoryLeavesTheOutputBitIdentical) {
  TransformerLm base(small_model(), 1);
  const Tensor tokens = some_tokens(3, 12);
  for (const Retrofit& r : retrofits()) {
    TransformerLm model(small_model_with_memory(r.placement, r.zero), 99);
    EXPECT_FALSE(torch::equal(model.forward(tokens), base.forward(tokens)));
    model.load(state_of(base));
    EXPECT_TRUE(torch::equal(model.forward(tokens), base.forward(tokens)));
    EXPECT_TRUE(torch::equal(model.loss(tokens, tokens), base.loss(tokens, tokens)));
  }
}

TEST(TransformerLmLoad, TheFirstGradientOfAnInsertedMemoryIsInItsZeroFactorThenEverywhere) {
  const Tensor tokens = some_tokens(3, 12);
  const auto moved = [](const Tensor& gradient) {
    return gradient.defined() && gradient.numel() > 0 && gradient.abs().max().item<double>() > 0;
  };
  for (const Retrofit& r : retrofits()) {
    TransformerLm model(small_model_with_memory(r.placement, r.zero), 1);
    const TablePtr table = model.tables().at(0);
    for (int step = 0; step < 2; ++step) {
      model.zero_grad();
      table->store().references().clear();
      model.loss(tokens.narrow(1, 0, 11), tokens.narrow(1, 1, 11)).backward();
      const RowGradient rows = table->store().references().sum();
      EXPECT_EQ(moved(rows.gradient), step == 1 || r.moves_first.empty());
      for (const auto& parameter : model.named_parameters()) {
        const auto at = parameter.key().find(".memory.");
        if (at == std::string::npos) continue;
        const bool first = !r.moves_first.empty() && parameter.key().find(r.moves_first, at) != std::string::npos;
        EXPECT_EQ(moved(parameter.value().grad()), step == 1 || first) << parameter.key() << step;
      }
      const torch::NoGradGuard guard;
      for (auto& parameter : model.parameters()) {
        if (parameter.grad().defined()) parameter.add_(parameter.grad(), -0.1);
      }
      if (rows.row.numel() > 0) Tensor(table->store().values()).index_add_(0, rows.row, rows.gradient, -1);
    }
  }
}

TEST(TransformerLmLoad, AMemoryThatReplacesTheFeedForwardLeavesItsMapsOut) {
  TransformerLm base(small_model(), 1);
  TransformerLm model(
      small_model_with_memory(MemoryPlacement::replace, [](auto& o) { o.memory.start = MemoryStart::zero_values; }),
      99);
  const Tensor tokens = some_tokens(3, 12);
  model.load(state_of(base));
  const auto state = state_of(model);
  for (const auto& [name, value] : state_of(base)) {
    if (name.starts_with("layers.1.ffn_in") || name.starts_with("layers.1.ffn_out")) continue;
    EXPECT_TRUE(torch::equal(state.at(name), value)) << name;
  }
  // With rows of zero the layer adds nothing there, as a feed-forward of zeros.
  for (const auto& parameter : base.named_parameters()) {
    if (parameter.key() == "layers.1.ffn_out") parameter.value().detach().zero_();
  }
  EXPECT_TRUE(torch::equal(model.forward(tokens), base.forward(tokens)));
  // The maps of a layer that keeps its feed-forward, or whose memory came with them, are not left out.
  auto bad = state_of(base);
  bad.erase("layers.0.ffn_in");
  EXPECT_THROW(model.load(bad), Error);
  TransformerLm parallel(small_model_with_memory(MemoryPlacement::parallel), 3);
  EXPECT_THROW(model.load(state_of(parallel)), Error);
}

TEST(TransformerLmLoad, LoadRefusesForeignMissingAndMisshapenNames) {
  TransformerLm base(small_model(), 1);
  TransformerLm model(small_model_with_memory(MemoryPlacement::parallel), 2);
  auto state = state_of(base);
  const auto refused = [&](const std::map<std::string, Tensor>& bad, const std::string& word) {
    try {
      model.load(bad);
      ADD_FAILURE() << word;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::input);
      EXPECT_THAT(error.what(), testing::HasSubstr(word));
    }
  };
  auto bad = state;
  bad.erase("layers.0.ffn_in");
  refused(bad, "layers.0.ffn_in");
  bad = state;
  bad.emplace("layers.7.ffn_in", at::zeros({1}));
  refused(bad, "layers.7.ffn_in");
  bad = state;
  bad["final_norm"] = at::zeros({3});
  refused(bad, "final_norm");
  EXPECT_FALSE(torch::equal(state_of(model).at("embedding"), state.at("embedding")));
  model.load(state);
  EXPECT_TRUE(torch::equal(state_of(model).at("embedding"), state.at("embedding")));
  EXPECT_THROW(base.load(state_of(model)), Error);
}

}  // namespace
}  // namespace loci
