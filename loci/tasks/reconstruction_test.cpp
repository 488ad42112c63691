#include "loci/tasks/reconstruction.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "loci/base/random.h"
#include "loci/table/row_store.h"
#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReconstructionRecipe = R"(
task = "reconstruction"
[data]
crop_padding = 0
[model]
width = 8
code_width = 8
[train]
batch = 8
precision = "float32"
[optimizer]
learning_rate = 1e-2
weight_decay = 0
[optimizer.schedule]
warmup = 0
[table_optimizer]
learning_rate = 1e-2
)";
const std::vector<std::string> kRows = {"main:model.memory.rows=64", "main:model.memory.heads=2",
                                        "main:model.memory.top_k=4", "main:model.memory.key_width=8"};
const std::vector<std::string> kCodes = {"main:model.quantiser.codes=32"};

// One bright square in the dark, at a place of its own.
void write_squares(const fs::path& folder, int64_t first, int64_t count) {
  fs::create_directories(folder);
  const CounterRandom random(1, "squares");
  for (int64_t i = first; i < first + count; ++i) {
    const auto x0 = static_cast<int64_t>(random.below(static_cast<uint64_t>(2 * i), 11));
    const auto y0 = static_cast<int64_t>(random.below(static_cast<uint64_t>(2 * i + 1), 11));
    Image image{{16, 16, 3}, {}};
    for (int64_t p = 0; p < 16 * 16; ++p) {
      const int64_t x = p % 16, y = p / 16;
      const bool bright = x >= x0 && x < x0 + 5 && y >= y0 && y < y0 + 5;
      for (int64_t c = 0; c < 3; ++c) image.pixels.push_back(bright ? 230 : 20);
    }
    write_png(folder / fmt::format("{}.png", i), image);
  }
}

class ReconstructionTest : public TaskTest {
 protected:
  ReconstructionTest() : TaskTest(kReconstructionRecipe) {
    for (const char* label : {"a", "b"}) {
      write_squares(folder_ / "train" / label, label[0] == 'a' ? 0 : 30, 30);
      write_squares(folder_ / "test" / label, label[0] == 'a' ? 60 : 70, 10);
    }
  }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {}) {
    return make_task(settings, folder_.path(), checkpoint);
  }

  TemporaryFolder folder_;
};

// The mean as a constant image has 12.2 dB here: squares cover a tenth of it.
TEST_F(ReconstructionTest, EveryBottleneckLearns) {
  for (const auto& settings : {std::vector<std::string>{}, kRows, kCodes}) {
    const auto task = make(settings);
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, 150, 150);
    const Evaluation evaluation = evaluate(*task, false);
    EXPECT_GT(evaluation.values[0], 14) << settings.size();
    EXPECT_NEAR(evaluation.values[0], -10 * std::log10(evaluation.values[1]), 1e-9);
    EXPECT_EQ(evaluation.details.at("images"), 20);
    ASSERT_EQ(task->measures().size(), evaluation.values.size());
    if (settings.empty()) continue;
    EXPECT_GT(evaluation.values[2], 0.1);
    EXPECT_LE(evaluation.values[2], 1);
  }
}

TEST_F(ReconstructionTest, TheLossIsThatOfPixels) {
  const auto task = make({"data.mirror=false"});
  const auto loss = task->loss(0, 0).item<double>();
  // Before training the output is near 0 or beyond: at least the squares of the dark pixels are missed.
  EXPECT_GT(loss, 0.001);
  auto& model = dynamic_cast<Autoencoder&>(task->module());
  for (auto& parameter : model.named_parameters()) {
    if (parameter.key() != "decoder3.weight" && parameter.key() != "decoder3.bias") continue;
    const torch::NoGradGuard guard;
    parameter.value().zero_();
  }
  // Zeros for all pixels: 25 of 256 are 230 / 255, the others 20 / 255.
  const double zeros = (25 * std::pow(230.0 / 255, 2) + 231 * std::pow(20.0 / 255, 2)) / 256;
  EXPECT_NEAR(task->loss(1, 0).item<double>(), zeros, 1e-5);
  EXPECT_NEAR(evaluate(*task, false).values[1], zeros, 1e-5);

  // What is beyond 1 counts as 1 in an evaluation.
  const torch::NoGradGuard guard;
  model.named_parameters()["decoder3.bias"].fill_(3);
  const double ones = (25 * std::pow(25.0 / 255, 2) + 231 * std::pow(235.0 / 255, 2)) / 256;
  EXPECT_NEAR(evaluate(*task, false).values[1], ones, 1e-5);
}

TEST_F(ReconstructionTest, AQuantiserAddsItsCommitment) {
  std::vector<std::string> without = kCodes;
  without.emplace_back("main:model.quantiser.commitment=0");
  EXPECT_GT(make(kCodes)->loss(0, 0).item<double>(), make(without)->loss(0, 0).item<double>() + 1e-6);
}

TEST_F(ReconstructionTest, GoesOnBitForBit) {
  for (const auto& settings : {kRows, kCodes}) {
    SCOPED_TRACE(settings.empty() ? "" : settings[0]);
    expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make(settings, checkpoint); });
  }
}

TEST_F(ReconstructionTest, CodesThatWereReplacedAreLogged) {
  const auto task = make(kCodes);
  EXPECT_FALSE(task->training_measures(true).contains("codes_replaced"));
  task->loss(0, 0);
  EXPECT_EQ(task->training_measures(true).at("codes_replaced"), 32.0);
  EXPECT_FALSE(task->training_measures(true).contains("codes_replaced")) << "no step since";
  EXPECT_FALSE(make()->training_measures(true).contains("codes_replaced"));
}

TEST_F(ReconstructionTest, ThePlannedSizesAreThoseOfTheModel) {
  for (const auto& settings : {std::vector<std::string>{}, kRows, kCodes}) {
    const auto task = make(settings);
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    const RunSize size = config_->size();
    EXPECT_EQ(size.parameters_dense, dense);
    EXPECT_EQ(size.parameters_table, settings == kRows ? 64 * 8 : 0);
    EXPECT_EQ(size.memory[0].second, 4 * dense);
    EXPECT_EQ(size.memory[1].second, 4 * dense);
    for (const auto& [table, rows] : task->tables()) EXPECT_EQ(rows.learning_rate, 1e-2);
  }
}

TEST_F(ReconstructionTest, ImagesMustHaveEdgesOfEight) {
  expect_error(ExitCode::usage, "data.size: edges of images must be multiples of 8 (see data.size), got 12 x 16",
               [&] { make({"data.size=[12,16]"}); });
  TemporaryFolder odd;
  for (const char* part : {"train", "test"}) {
    fs::create_directories(odd / part / "a");
    write_png(odd / part / "a" / "1.png", {{9, 9, 3}, std::vector<uint8_t>(9 * 9 * 3)});
  }
  expect_error(ExitCode::usage, "edges of images must be multiples of 8 (see data.size), got 9 x 9",
               [&] { make_task({}, odd.path()); });
}

TEST_F(ReconstructionTest, AnAutoencoderIsLoadedWithoutData) {
  const auto task = make(kRows);
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 2, 2);
  const CheckpointReader checkpoint(checkpoint_of(*task, *optimizers, 2));
  const LoadedAutoencoder loaded =
      load_autoencoder(dynamic_cast<const ReconstructionPlan&>(*config_->plan), 3, checkpoint);
  const torch::NoGradGuard guard;
  const at::Tensor images = torch::randn({2, 3, 16, 16});
  task->module().eval();
  const at::Tensor expected = dynamic_cast<Autoencoder&>(task->module()).forward(images).images;
  EXPECT_TRUE(torch::equal(loaded.model->forward(images).images, expected));

  const std::vector<Image> bytes = images_of(torch::tensor({{{{-1.0, 0.5}}}, {{{1.0, 2.0}}}}));
  ASSERT_EQ(bytes.size(), 2u);
  EXPECT_EQ(bytes[0].pixels, (std::vector<uint8_t>{0, 128}));
  EXPECT_EQ(bytes[1].pixels, (std::vector<uint8_t>{255, 255}));
}

}  // namespace
}  // namespace loci
