// Legend: B sequences, P positions, d width, M items of a sequence, L tokens of an item, V vocabulary.
#include "loci/nn/small/retrieval_memory.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

// x [.., N, d], mask [.., N] -> [.., d]; 0 where nothing is true.
Tensor masked_mean(const Tensor& x, const Tensor& mask) {
  const Tensor counted = mask.unsqueeze(-1).to(x.scalar_type());
  return (x * counted).sum(-2) / counted.sum(-2).clamp_min(1);
}

}  // namespace

RetrievalMemory::RetrievalMemory(const std::string& name, RetrievalMemoryOptions options, uint64_t seed)
    : Module("RetrievalMemory"), options_(options) {
  TORCH_CHECK(options.vocabulary > 0 && options.width > 0 && options.length > 0, name,
              ": vocabulary, width and length must be at least 1, got ", options.vocabulary, ", ", options.width,
              " and ", options.length);
  TORCH_CHECK(options.padding >= 0 && options.padding < options.vocabulary, name,
              ": padding must be a token of 0 to vocabulary - 1, got ", options.padding, " of ", options.vocabulary);
  const double std = 1 / std::sqrt(static_cast<double>(options.width));
  const double bound = options.zero_start ? 0 : 1 / std::sqrt(static_cast<double>(options.length));
  embedding = register_parameter("embedding",
                                 normal_start(seed, name + ".embedding", {options.vocabulary, options.width}, std));
  position_weight =
      register_parameter("position_weight", uniform_start(seed, name + ".position_weight", {options.length}, bound));
  bias = register_parameter("bias", uniform_start(seed, name + ".bias", {1}, bound));
}

Retrieval RetrievalMemory::retrieve(const Tensor& hidden, const Tensor& items, const Tensor& token_mask) const {
  TORCH_CHECK(hidden.dim() == 3 && hidden.size(2) == options_.width && hidden.is_floating_point(),
              "RetrievalMemory: hidden must be [B, P, ", options_.width, "] of a floating type, got ", hidden.sizes(),
              " of ", hidden.scalar_type());
  TORCH_CHECK(items.dim() == 3 && items.size(0) == hidden.size(0) && items.size(2) == options_.length &&
                  items.scalar_type() == at::kLong,
              "RetrievalMemory: items must be int64 [", hidden.size(0), ", M, ", options_.length, "], got ",
              items.scalar_type(), " ", items.sizes());
  TORCH_CHECK(!token_mask.defined() ||
                  (token_mask.scalar_type() == at::kBool && token_mask.sizes() == hidden.sizes().slice(0, 2)),
              "RetrievalMemory: token_mask must be bool ", hidden.sizes().slice(0, 2), ", got ",
              token_mask.scalar_type(), " ", token_mask.sizes());
  TORCH_CHECK(
      items.numel() == 0 || (items.min().item<int64_t>() >= 0 && items.max().item<int64_t>() < options_.vocabulary),
      "RetrievalMemory: items must be tokens of 0 to ", options_.vocabulary - 1, ", got others");
  const Tensor valid = items.ne(options_.padding);  // [B, M, L]
  Tensor tokens = at::embedding(embedding, items);  // [B, M, L, d]
  if (!options_.count_padding) tokens = tokens * valid.unsqueeze(-1).to(tokens.scalar_type());
  const Tensor mean = options_.count_padding ? tokens.mean(2) : masked_mean(tokens, valid);
  const Tensor context = token_mask.defined() ? masked_mean(hidden, token_mask) : hidden.mean(1);
  Retrieval result;
  result.score = address_scores(context.unsqueeze(1).to(mean.scalar_type()), mean, AddressScore::cosine).squeeze(1);
  result.weight = read_weights(result.score, valid.any(2), options_.read);
  const Tensor mapped = tokens.transpose(2, 3).matmul(position_weight) + bias;  // [B, M, d]
  result.added = result.weight.unsqueeze(1).to(mapped.scalar_type()).matmul(mapped).squeeze(1);
  return result;
}

Tensor RetrievalMemory::forward(const Tensor& hidden, const Tensor& items, const Tensor& token_mask) const {
  return hidden + retrieve(hidden, items, token_mask).added.unsqueeze(1).to(hidden.scalar_type());
}

}  // namespace loci
