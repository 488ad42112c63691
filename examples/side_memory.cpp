// A memory at the side of a convolutional network of one's own: what is trained, how, and how many of its rows are
// read.
#include <torch/torch.h>

#include <cstdio>
#include <memory>
#include <vector>

#include "loci/nn/memory/side_memory.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/local_table.h"
#include "loci/table/usage.h"

namespace {

constexpr int64_t kClasses = 10, kBatch = 16;

// Noisy textures, one a class.
struct Textures {
  at::Tensor texture = torch::randn({kClasses, 3, 2, 2}).repeat({1, 1, 4, 4});  // 8 x 8
  std::pair<at::Tensor, at::Tensor> draw() const {
    const at::Tensor label = torch::randint(kClasses, {kBatch}, torch::kLong);
    const at::Tensor x = texture.index_select(0, label);
    return {(x + 0.5 * torch::randn_like(x)).contiguous(at::MemoryFormat::ChannelsLast), label};
  }
};

}  // namespace

int main() {
  torch::manual_seed(0);
  const Textures textures;

  // The snippet of docs/vision-memory.md begins here.
  // 1,024 rows of width 32, and a memory that reads 16 of them for each of 4 heads at every position.
  const auto table = std::make_shared<loci::LocalTable>("rows", /*rows=*/1024, /*width=*/32);
  table->store().initialise_normal(/*seed=*/1, /*std=*/0.2);
  loci::MemoryMapOptions options;
  options.width = 32;  // channels of the map
  const auto memory = std::make_shared<loci::SideMemory>("memory", options, table, /*seed=*/1);
  torch::nn::Sequential network(torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 32, 3).padding(1).bias(false)),
                                torch::nn::BatchNorm2d(32), torch::nn::ReLU(), memory, torch::nn::AdaptiveAvgPool2d(1),
                                torch::nn::Flatten(), torch::nn::Linear(32, 10));

  // The rows have an optimiser of their own, which updates those that were read.
  std::vector<loci::NamedParameter> dense;
  for (const auto& item : network->named_parameters()) dense.push_back({item.key(), item.value()});
  loci::RowOptimizerOptions rows;
  rows.learning_rate = 1e-2;
  loci::DenseOptimizerOptions others;
  others.learning_rate = 1e-2;
  loci::OptimizerSet optimizers(dense, others, {{table, rows}}, /*seed=*/1);

  const auto usage = std::make_shared<loci::Usage>(table->rows());
  memory->map->memory->add_observer(usage);
  constexpr int64_t kSteps = 100;
  double first = 0, last = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    usage->set_step(step);
    if (step % 25 == 0) usage->begin_window(step);
    const auto [x, label] = textures.draw();
    const at::Tensor loss = torch::nn::functional::cross_entropy(network->forward(x), label);
    loss.backward();
    optimizers.step(step, kSteps);
    if (step == 0) first = loss.item<double>();
    last = loss.item<double>();
    if (step % 25 != 24) continue;
    const loci::UsageMetrics read = usage->metrics();
    std::printf("steps %2ld to %2ld: loss %.3f, %.0f %% of rows read, KL %.2f, distance of means %.3f\n",
                static_cast<long>(step - 24), static_cast<long>(step), last, 100 * read.usage, read.kl,
                memory->map->memory->mean_distance());
  }
  // The snippet ends here.

  return last < 0.5 * first && usage->metrics().usage > 0.5 ? 0 : 1;
}
