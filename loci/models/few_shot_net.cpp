// Legend: K ways (classes), n shots, N = K n support images, Q queries, C channels, E channels of the set encoder.
#include "loci/models/few_shot_net.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>
#include <string>
#include <utility>

#include "loci/base/check.h"
#include "loci/models/trained_parameters.h"
#include "loci/nn/batch_normalised.h"
#include "loci/nn/initialise.h"

namespace loci {
namespace {

using at::Tensor;

void check_support(const Tensor& support, const Tensor& queries, int64_t ways, const char* who) {
  TORCH_CHECK(ways >= 2, who, ": there must be at least 2 classes, got ", ways);
  TORCH_CHECK(support.dim() == queries.dim() && support.size(0) > 0 && support.size(0) % ways == 0, who,
              ": the support must hold as many examples of each of ", ways, " classes, got ", support.sizes(),
              " with queries ", queries.sizes());
}

// x [.., rows, C] without its mean over the rows -> covariance [.., C, C].
Tensor covariance(const Tensor& centred) {
  const auto freedom = static_cast<double>(std::max<int64_t>(1, centred.size(-2) - 1));
  return centred.transpose(-2, -1).matmul(centred) / freedom;
}

}  // namespace

Tensor prototypical_logits(const Tensor& support, const Tensor& queries, int64_t ways) {
  check_support(support, queries, ways, "prototypical_logits");
  const Tensor centre = support.view({ways, -1, support.size(1)}).mean(1);  // [K, C]
  return -(queries.unsqueeze(1) - centre).square().sum(2);
}

Tensor mahalanobis_logits(const Tensor& support, const Tensor& queries, int64_t ways) {
  check_support(support, queries, ways, "mahalanobis_logits");
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  const int64_t C = support.size(1);
  const Tensor of_class = support.view({ways, -1, C});       // [K, n, C]
  const Tensor centre = of_class.mean(1, /*keepdim=*/true);  // [K, 1, C]
  const auto n = static_cast<double>(of_class.size(1));
  const double own = n / (n + 1);
  const Tensor sigma = own * covariance(of_class - centre) +
                       (1 - own) * covariance(support - support.mean(0, /*keepdim=*/true)) +
                       at::eye(C, support.options());                    // [K, C, C]
  const Tensor root = std::get<0>(at::linalg_cholesky_ex(sigma));        // NaN in, NaN out
  const Tensor apart = (queries.unsqueeze(0) - centre).transpose(1, 2);  // [K, C, Q]
  return -at::linalg_solve_triangular(root, apart, /*upper=*/false).square().sum(1).t();
}

struct FewShotNet::Blocks : torch::nn::Module {
  struct Block {
    Tensor weight, gain, bias;
  };

  Blocks(const std::string& name, const ConvolutionBlocks& form, uint64_t seed) : Module(name), shape(form) {
    for (int64_t i = 0; i < ConvolutionBlocks::kBlocks; ++i) {
      const int64_t inputs = i == 0 ? shape.inputs : shape.channels;
      const double deviation = std::sqrt(2.0 / static_cast<double>(9 * inputs));
      const std::string prefix = fmt::format("block{}_", i);
      blocks.push_back({register_parameter(prefix + "weight", normal_start(seed, name + "." + prefix + "weight",
                                                                           {shape.channels, inputs, 3, 3}, deviation)),
                        register_parameter(prefix + "gain", at::ones({shape.channels})),
                        register_parameter(prefix + "bias", at::zeros({shape.channels}))});
    }
  }

  // images [B, inputs, height, width] -> [B, C]; film: undefined, or [blocks, 2, C, 1, 1].
  Tensor forward(const Tensor& images, const Tensor& film) const {
    Tensor x = images;
    for (size_t i = 0; i < blocks.size(); ++i) {
      x = at::group_norm(at::conv2d(x, blocks[i].weight, {}, 1, 1), shape.groups, blocks[i].gain, blocks[i].bias,
                         kNormEpsilon);
      if (film.defined()) {
        const Tensor of_block = film[static_cast<int64_t>(i)];
        x = (1 + of_block[0]) * x + of_block[1];
      }
      x = at::max_pool2d(x.relu(), 2);
    }
    return x.mean({2, 3});
  }

  ConvolutionBlocks shape;
  std::vector<Block> blocks;
};

FewShotNet::FewShotNet(const FewShotNetOptions& options, uint64_t seed) : Module("FewShotNet"), options_(options) {
  options_.check();
  features_ = register_module("features", std::make_shared<Blocks>("features", options_.features(), seed));
  if (!options_.adapts()) return;
  encoder_ = register_module("encoder", std::make_shared<Blocks>("encoder", options_.encoder(), seed));
  film_weight_ = register_parameter("film_weight", at::zeros({options_.film_numbers(), options_.encoder_channels}));
  film_bias_ = register_parameter("film_bias", at::zeros({options_.film_numbers()}));
}

Tensor FewShotNet::forward(const Tensor& support, const Tensor& queries, int64_t ways, const SubsetOptions& subset,
                           RandomSequence& random) const {
  check_support(support, queries, ways, "FewShotNet");
  TORCH_CHECK(
      support.dim() == 4 && support.size(1) == options_.inputs && support.sizes().slice(1) == queries.sizes().slice(1),
      "FewShotNet: images must be [.., ", options_.inputs, ", height, width], got support ", support.sizes(),
      " and queries ", queries.sizes());
  const auto pooled = [&](const Tensor& images, const EmbedRows& embed) {
    if (!at::GradMode::is_enabled()) return embed_in_chunks(images, embed, subset.chunk);
    return subset_backprop(images, embed, subset, random);
  };
  Tensor film;
  if (encoder_) {
    const Tensor code = pooled(support, [&](const Tensor& x) { return encoder_->forward(x, {}); }).mean(0, true);
    film = at::linear(code, film_weight_, film_bias_).view({ConvolutionBlocks::kBlocks, 2, options_.channels, 1, 1});
  }
  const EmbedRows embed = [&](const Tensor& x) { return features_->forward(x, film); };
  const Tensor of_support = pooled(support, embed);
  const Tensor of_queries = at::GradMode::is_enabled() ? embed(queries) : embed_in_chunks(queries, embed, subset.chunk);
  const auto type = exact_type_of(of_support);
  return encoder_ ? mahalanobis_logits(of_support.to(type), of_queries.to(type), ways)
                  : prototypical_logits(of_support.to(type), of_queries.to(type), ways);
}

Tensor FewShotNet::features(const Tensor& images) const {
  return features_->forward(images, {});
}

std::vector<NamedParameter> FewShotNet::dense_parameters() const {
  return trained_parameters(*this);
}

}  // namespace loci
