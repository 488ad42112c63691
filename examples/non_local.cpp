// A non-local block in a convolutional network of one's own: what is trained, how much the block adds, where it looks.
#include <torch/torch.h>

#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "loci/nn/relation/non_local_diagnosis.h"

namespace {

constexpr int64_t kBatch = 64;

// Are two distant marks alike? Each is a 2 x 2 square of one of four brightnesses.
std::pair<at::Tensor, at::Tensor> draw_pairs() {
  const at::Tensor label = torch::randint(2, {kBatch}, torch::kLong), first = torch::randint(4, {kBatch});
  const at::Tensor other = (first + torch::randint(1, 4, {kBatch})).remainder(4);
  const at::Tensor second = torch::where(label == 1, first, other);
  at::Tensor x = 0.1 * torch::randn({kBatch, 1, 12, 12});
  for (int64_t i = 0; i < kBatch; ++i) {
    x[i][0].slice(0, 1, 3).slice(1, 1, 3).fill_(1 + first[i].item<float>());
    x[i][0].slice(0, 9, 11).slice(1, 9, 11).fill_(1 + second[i].item<float>());
  }
  return {x.contiguous(at::MemoryFormat::ChannelsLast), label};
}

}  // namespace

int main() {
  torch::manual_seed(0);

  // The snippet of docs/non-local.md begins here.
  loci::NonLocalOptions options;
  options.channels = 16;  // of the map that it is given
  const auto block = std::make_shared<loci::NonLocal>("block", options, /*seed=*/1);
  torch::nn::Sequential front(torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 16, 3).padding(1)),
                              torch::nn::BatchNorm2d(16), torch::nn::ReLU());
  torch::nn::Sequential back(torch::nn::Conv2d(torch::nn::Conv2dOptions(16, 16, 1)), torch::nn::BatchNorm2d(16),
                             torch::nn::ReLU(), torch::nn::AdaptiveAvgPool2d(1), torch::nn::Flatten(),
                             torch::nn::Linear(16, 2));
  std::vector<at::Tensor> parameters = front->parameters();
  for (const at::Tensor& parameter : block->parameters()) parameters.push_back(parameter);
  for (const at::Tensor& parameter : back->parameters()) parameters.push_back(parameter);
  torch::optim::Adam optimizer(parameters, 3e-3);
  constexpr int64_t kSteps = 300;
  double right = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    const auto [x, label] = draw_pairs();
    const at::Tensor map = front->forward(x), score = back->forward(block->forward(map));
    optimizer.zero_grad();
    torch::nn::functional::cross_entropy(score, label).backward();
    optimizer.step();
    right = 0.95 * right + 0.05 * (score.argmax(1) == label).to(torch::kFloat).mean().item<double>();
    if (step % 100 != 99) continue;
    const loci::NonLocalDiagnosis d = loci::diagnose(*block, map.detach());
    std::printf("step %ld: right %.2f, adds %.2f of its input, looks %.1f pixels far, entropy %.2f %s\n",
                static_cast<long>(step + 1), right, d.residual_ratio, d.space_distance, d.entropy,
                loci::warning_of(d, step).c_str());
  }
  // The snippet ends here.

  return right > 0.8 ? 0 : 1;
}
