// Legend: B texts, L positions, d width, C classes.
#include "loci/models/text_classifier.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <string>
#include <utility>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

constexpr double kHeadStd = 0.02;
constexpr const char* kHead = "classifier";

// x [B, L, d], mask [B, L] or undefined -> [B, d].
Tensor pooled_tokens(const Tensor& x, const Tensor& mask, TextPooling pooling) {
  switch (pooling) {
    case TextPooling::first:
      return x.select(1, 0);
    case TextPooling::last: {
      if (!mask.defined()) return x.select(1, -1);
      const Tensor last = (mask.sum(1) - 1).view({-1, 1, 1}).expand({-1, 1, x.size(2)});
      return x.gather(1, last).squeeze(1);
    }
    case TextPooling::mean:
      break;
  }
  if (!mask.defined()) return x.mean(1);
  const Tensor share = mask.to(x.scalar_type()) / mask.sum(1, true);  // [B, L]
  return (x * share.unsqueeze(-1)).sum(1);
}

}  // namespace

struct TextClassifier::Head : torch::nn::Module {
  Head(int64_t width, int64_t classes, uint64_t seed) {
    weight =
        register_parameter("weight", normal_start(seed, std::string(kHead) + ".weight", {classes, width}, kHeadStd));
    bias = register_parameter("bias", at::zeros({classes}));
  }
  Tensor weight, bias;  // [C, d], [C]
};

TextClassifier::TextClassifier(TransformerLmOptions options, TextPooling pooling, int64_t classes, uint64_t seed,
                               const TableMaker& tables)
    : TransformerLm(std::move(options), seed, tables), pooling_(pooling) {
  if (classes < 2) fail(ExitCode::usage, "TextClassifier", "classes must be at least 2", std::to_string(classes));
  if (pooling == TextPooling::first && this->options().causal) {
    fail(ExitCode::usage, "TextClassifier", "pooling must be mean or last where the model is causal", "first");
  }
  head_ = register_module(kHead, std::make_shared<Head>(this->options().width, classes, seed));
}

Tensor TextClassifier::classify(const Tensor& tokens, const BlockContext& context) {
  TORCH_CHECK(tokens.dim() != 2 || tokens.size(1) > 0, "TextClassifier: a text must have tokens, got ", tokens.sizes());
  const Tensor& mask = context.token_mask;
  TORCH_CHECK(!mask.defined() || mask.any(1).all().item<bool>(),
              "TextClassifier: each text must have a token, got one of padding alone");
  const Tensor x = hidden(tokens, nullptr, context);
  return at::linear(pooled_tokens(x, mask, pooling_), head_->weight, head_->bias).to(head_->weight.scalar_type());
}

void TextClassifier::load(const std::map<std::string, Tensor>& state, const std::string& who) {
  TransformerLm::load(state, who, {std::string(kHead) + "."});
}

int64_t TextClassifier::count_head(int64_t width, int64_t classes) {
  return checked_sum("model", "parameters", checked_product("model", "parameters", width, classes), classes);
}

}  // namespace loci
