// Blocks of other libraries, written from their formulas with ordinary convolutions, given the same weights.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/nn/relation/non_local.h"

namespace loci::non_local_peers_test {
namespace {

using torch::Tensor;

// What distinguishes them. Their names: AlexHex7/Non-local_pytorch, open-mmlab mmcv, PySlowFast, the Caffe2 release.
struct Peer {
  const char* name;
  PairForm form;
  bool scaled;
  PairPool pool;
  PairNorm norm;
  bool output_bias;
  int64_t dimensions;
};

std::vector<Peer> known_peers() {
  std::vector<Peer> peers;
  for (const PairForm form : {PairForm::gaussian, PairForm::embedded, PairForm::dot, PairForm::concat}) {
    for (const int64_t dimensions : {1, 2, 3}) {
      peers.push_back({"AlexHex7", form, false, PairPool::after, PairNorm::batch, true, dimensions});
      peers.push_back({"AlexHex7 without norm", form, false, PairPool::none, PairNorm::none, true, dimensions});
      peers.push_back({"mmcv", form, form == PairForm::embedded, PairPool::none, PairNorm::none, true, dimensions});
      peers.push_back(
          {"mmcv with norm", form, form == PairForm::embedded, PairPool::after, PairNorm::batch, false, dimensions});
    }
  }
  for (const PairForm form : {PairForm::embedded, PairForm::dot}) {
    const bool scaled = form == PairForm::embedded;
    peers.push_back({"PySlowFast", form, scaled, PairPool::before, PairNorm::batch, true, 3});
    peers.push_back({"PySlowFast with layer norm", form, scaled, PairPool::before, PairNorm::layer, true, 3});
    peers.push_back({"Caffe2", form, scaled, PairPool::before, PairNorm::batch, true, 3});
    peers.push_back({"Caffe2, frozen", form, scaled, PairPool::before, PairNorm::frozen, true, 3});
  }
  return peers;
}

Tensor pooled_map(const Tensor& x) {
  if (x.dim() == 3) return torch::max_pool1d(x, 2);
  if (x.dim() == 4) return torch::max_pool2d(x, 2);
  return torch::max_pool3d(x, {1, 2, 2});
}

Tensor convolved_map(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  std::vector<int64_t> sizes = weight.sizes().vec();
  sizes.resize(static_cast<size_t>(x.dim()), 1);
  const auto shift = bias.defined() ? std::optional(bias) : std::nullopt;
  if (x.dim() == 3) return torch::conv1d(x, weight.view(sizes), shift);
  if (x.dim() == 4) return torch::conv2d(x, weight.view(sizes), shift);
  return torch::conv3d(x, weight.view(sizes), shift);
}

Tensor peer_forward(const Peer& peer, const NonLocal& w, const Tensor& x, bool training) {
  const Tensor source = peer.pool == PairPool::before ? pooled_map(x) : x;
  const auto key_side = [&](const Tensor& map) { return peer.pool == PairPool::after ? pooled_map(map) : map; };
  const Tensor g = key_side(convolved_map(source, w.g_weight, w.g_bias)).flatten(2).transpose(1, 2);
  const bool gaussian = peer.form == PairForm::gaussian;
  const Tensor theta = (gaussian ? x : convolved_map(x, w.theta_weight, w.theta_bias)).flatten(2);
  const Tensor phi = key_side(gaussian ? source : convolved_map(source, w.phi_weight, w.phi_bias)).flatten(2);
  const int64_t N = theta.size(2), M = phi.size(2);
  Tensor f;
  if (peer.form == PairForm::concat) {
    const Tensor both =
        torch::cat({theta.unsqueeze(3).expand({-1, -1, N, M}), phi.unsqueeze(2).expand({-1, -1, N, M})}, 1);
    f = torch::relu(torch::conv2d(both, w.concat_weight.view({1, -1, 1, 1}))).squeeze(1) / M;
  } else {
    f = torch::matmul(theta.transpose(1, 2), phi);
    if (peer.scaled) f = f / std::sqrt(static_cast<double>(theta.size(1)));
    f = peer.form == PairForm::dot ? f / M : torch::softmax(f, -1);
  }
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes[1] = g.size(2);
  Tensor z = convolved_map(torch::matmul(f, g).transpose(1, 2).reshape(sizes), w.output_weight, w.output_bias);
  if (peer.norm == PairNorm::layer) z = torch::group_norm(z, 1);
  if (w.norm.gain.defined()) {
    z = torch::batch_norm(z, w.norm.gain, w.norm.bias, w.norm.running_mean.clone(), w.norm.running_variance.clone(),
                          training && peer.norm == PairNorm::batch, 0.1, 1e-5, false);
  }
  return x + z;
}

TEST(NonLocalPeers, HaveTheSameNumbersFromTheSameWeights) {
  torch::manual_seed(0);
  const torch::NoGradGuard guard;
  for (const Peer& peer : known_peers()) {
    NonLocalOptions options;
    options.channels = 6;
    options.dimensions = peer.dimensions;
    options.form = peer.form;
    options.scale = peer.scaled ? PairScale::rsqrt : PairScale::none;
    options.pool = peer.pool;
    options.norm = peer.norm;
    options.output_bias = peer.output_bias;
    for (const auto type : {torch::kDouble, torch::kFloat}) {
      NonLocal block("block", options, 3);
      for (auto& parameter : block.parameters()) parameter.add_(torch::randn_like(parameter), 0.3);
      if (block.norm.running_mean.defined()) block.norm.running_mean.add_(0.2);
      block.to(type);
      std::vector<int64_t> sizes = {3, 6, 5, 7, 6};
      sizes.resize(static_cast<size_t>(2 + peer.dimensions));
      const Tensor x = torch::randn(sizes, type);
      const double tolerance = type == torch::kDouble ? 1e-12 : 1e-5;
      for (const bool training : {false, true}) {
        SCOPED_TRACE(::testing::Message() << peer.name << " form " << static_cast<int>(peer.form) << ", "
                                          << peer.dimensions << " dimensions, training " << training);
        block.train(training);
        const Tensor expected = peer_forward(peer, block, x, training);
        const double error = (block.forward(x) - expected).abs().max().item<double>();
        EXPECT_LE(error, tolerance * expected.abs().max().item<double>());
      }
    }
  }
}

}  // namespace
}  // namespace loci::non_local_peers_test
