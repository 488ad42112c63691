#include "loci/tasks/image_classification.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/random.h"
#include "loci/table/row_store.h"
#include "loci/train/start_weights.h"
#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kImageRecipe = R"(
task = "image_classification"
[data]
crop_padding = 1
mirror = false
[model]
depth = 8
width = 4
[model.memory]
rows = 64
heads = 2
top_k = 4
key_width = 8
[train]
batch = 12
precision = "float32"
[optimizer]
kind = "sgd"
learning_rate = 0.1
momentum = 0.9
weight_decay = 1e-4
clip_norm = 0
[optimizer.schedule]
warmup = 0
[table_optimizer]
learning_rate = 5e-3
)";

// Noise around grey; a class has one half that is brighter: left, right, top, bottom, and so on again, dimmer.
void write_halves(const fs::path& folder, int64_t label, int64_t first, int64_t count, int64_t edge = 8) {
  fs::create_directories(folder);
  const CounterRandom random(static_cast<uint64_t>(label), "halves");
  for (int64_t i = first; i < first + count; ++i) {
    Image image{{edge, edge, 3}, {}};
    for (int64_t p = 0; p < edge * edge * 3; ++p) {
      const int64_t x = p / 3 % edge, y = p / 3 / edge;
      const int64_t along = label % 4 < 2 ? x : y;
      const bool bright = (along < edge / 2) == (label % 2 == 0);
      const double noise = random.uniform(static_cast<uint64_t>(i * edge * edge * 3 + p));
      image.pixels.push_back(static_cast<uint8_t>(60 + 60 * noise + (bright ? (label < 4 ? 100 : 40) : 0)));
    }
    write_png(folder / fmt::format("{}.png", i), image);
  }
}

void write_image_classes(const fs::path& folder, int64_t classes, int64_t edge = 8) {
  for (int64_t label = 0; label < classes; ++label) {
    write_halves(folder / "train" / fmt::format("class-{}", label), label, 0, 20, edge);
    write_halves(folder / "test" / fmt::format("class-{}", label), label, 20, 10, edge);
  }
}

class ImageTask : public TaskTest {
 protected:
  ImageTask() : TaskTest(kImageRecipe) { write_image_classes(folder_.path(), 3); }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& data = {},
                             const fs::path& checkpoint = {}) {
    return make_task(settings, data.empty() ? folder_.path() : data, checkpoint);
  }

  TemporaryFolder folder_;
};

TEST_F(ImageTask, LossIsAFunctionOfStepAndSeed) {
  const auto task = make({"model.memory.query_norm=layer"});
  const double first = task->loss(0, 0).item<double>();
  EXPECT_NE(first, task->loss(7, 0).item<double>());
  EXPECT_EQ(task->loss(0, 0).item<double>(), first);
  const double later = task->loss(7, 0).item<double>();
  EXPECT_EQ(make({"model.memory.query_norm=layer"})->loss(7, 0).item<double>(), later);
}

TEST_F(ImageTask, LearnsToTellHalvesApart) {
  const auto task = make();
  const auto optimizers = optimizers_of(*task);
  EXPECT_LT(evaluate(*task, false).values[0], 0.7);
  train(*task, *optimizers, 0, 60, 60);
  EXPECT_GT(task->training_measures(true).at("train_accuracy").get<double>(), 0.6);  // of all steps
  const Evaluation evaluation = evaluate(*task, false);
  EXPECT_GT(evaluation.values[0], 0.95);
  EXPECT_LT(evaluation.values[1], 0.4);
  EXPECT_GT(evaluation.values[2], 0.2);  // usage
  EXPECT_EQ(evaluation.details.at("images"), 30);
  EXPECT_EQ(evaluation.details.at("memories")[0].at("layer"), 2);
}

TEST_F(ImageTask, TrainingAccuracyIsThatSinceTheLastLine) {
  const auto task = make();
  EXPECT_TRUE(task->training_measures(true).at("train_accuracy").is_null());
  task->loss(0, 0);
  const double share = task->training_measures(true).at("train_accuracy").get<double>();
  EXPECT_NEAR(share * 12, std::round(share * 12), 1e-9);
  EXPECT_TRUE(task->training_measures(true).at("train_accuracy").is_null());
}

TEST_F(ImageTask, GoesOnBitForBit) {
  for (const bool renews : {false, true}) {
    const std::vector<std::string> settings =
        renews ? std::vector<std::string>{"main:model.memory.reinitialise.window=4"} : std::vector<std::string>{};
    expect_resume_bit_for_bit([&](const fs::path& checkpoint) { return make(settings, {}, checkpoint); });
  }
}

TEST_F(ImageTask, ThePlannedSizesAreThoseOfTheModel) {
  TemporaryFolder ten;
  write_image_classes(ten.path(), 10);
  for (const char* setting : {"model.memory.query_norm=none", "model.memory.placement=replace3x3",
                              "model.extra_blocks=[0,0,1]", "model.memory.query_norm=center"}) {
    const auto task = make({setting, "data.size=[8,8]"}, ten.path());
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    const RunSize size = config_->size();
    EXPECT_EQ(size.parameters_dense, dense) << setting;
    EXPECT_EQ(size.parameters_table, 64 * 16);
    EXPECT_EQ(evaluate(*task, false).details.at("multiply_adds"), size.multiply_adds) << setting;
  }
}

TEST_F(ImageTask, SixClassesHaveATopFive) {
  TemporaryFolder six;
  write_image_classes(six.path(), 6);
  const auto task = make({}, six.path());
  const std::vector<Measure> measures = task->measures();
  ASSERT_EQ(measures.size(), 5u);
  EXPECT_EQ(measures[2].name, "top_5");
  const Evaluation evaluation = evaluate(*task, false);
  EXPECT_GE(evaluation.values[2], evaluation.values[0]);
  EXPECT_GT(evaluation.values[2], 0.5);
  EXPECT_EQ(make()->measures().size(), 4u);
}

TEST_F(ImageTask, TrainsOnSomeOfTheImages) {
  const auto task = make({"data.train_images=9"});
  EXPECT_EQ(task->data_facts().at("training images"), 9);
  EXPECT_EQ(task->data_facts().at("test images"), 30);
  EXPECT_NE(task->data_key(), make()->data_key());
  const auto opened = std::dynamic_pointer_cast<const OpenedImages>(task->opened_data());
  EXPECT_EQ(opened->data.train.labels, (std::vector<int64_t>{0, 0, 0, 1, 1, 1, 2, 2, 2}));
  std::vector<uint8_t> kept(8 * 8 * 3), all(8 * 8 * 3);
  opened->data.train.images.read(4, kept.data());
  const auto whole = make();
  std::dynamic_pointer_cast<const OpenedImages>(whole->opened_data())->data.train.images.read(26, all.data());
  EXPECT_EQ(kept, all);
}

TEST_F(ImageTask, GreyImagesHaveOneChannel) {
  const auto task = make({"data.color=grey"});
  EXPECT_EQ(task->module().named_parameters()["conv1.weight"].size(1), 1);
  EXPECT_EQ(task->infer(0), 30);
}

TEST_F(ImageTask, OtherDataAreReadAsThoseOfTheRun) {
  const auto task = make();
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 2, 2);
  const fs::path checkpoint = checkpoint_of(*task, *optimizers, 2);

  TemporaryFolder fewer;  // the same test images, other training images: another scale of its own
  write_image_classes(fewer.path(), 3);
  for (int64_t i = 5; i < 20; ++i) fs::remove(fewer / fmt::format("train/class-1/{}.png", i));
  const auto other = make({}, fewer.path(), checkpoint);
  load_model(CheckpointReader(checkpoint), *other);
  EXPECT_EQ(evaluate(*other, false).values, evaluate(*task, false).values);

  const auto refused = [&](const std::string& message, const fs::path& data) {
    expect_error(ExitCode::input, message, [&] { make({}, data, checkpoint); });
  };
  TemporaryFolder more, larger;
  write_image_classes(more.path(), 4);
  refused("the classes must be the 3 of the run, got class-3", more.path());
  write_image_classes(larger.path(), 3, 9);
  refused("images must be 8 x 8 x 3 as the run's, got 9 x 9 x 3", larger.path());
}

TEST_F(ImageTask, AClassifierIsLoadedWithoutData) {
  const auto task = make();
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 2, 2);
  const CheckpointReader checkpoint(checkpoint_of(*task, *optimizers, 2));
  const LoadedImageClassifier loaded =
      load_image_classifier(dynamic_cast<const ImageClassificationPlan&>(*config_->plan), 3, checkpoint);
  EXPECT_EQ(loaded.input.classes, (std::vector<std::string>{"class-0", "class-1", "class-2"}));
  const torch::NoGradGuard guard;
  const at::Tensor images = torch::randn({4, 3, 8, 8});
  task->module().eval();
  EXPECT_TRUE(torch::equal(loaded.model->forward(images), dynamic_cast<Resnet&>(task->module()).forward(images)));
}

TEST_F(ImageTask, AMemoryIsInsertedIntoATrainedNetwork) {
  const std::string with_memory = recipe_;
  recipe_.erase(recipe_.find("[model.memory]"), recipe_.find("[train]") - recipe_.find("[model.memory]"));
  const auto plain = make();
  const auto optimizers = optimizers_of(*plain);
  train(*plain, *optimizers, 0, 10, 10);
  const fs::path checkpoint = checkpoint_of(*plain, *optimizers, 10);
  recipe_ = with_memory;
  const auto side = make({}, {}, checkpoint);
  const StartWeights start(checkpoint, {});
  start.copy_into(*side);
  const std::vector<double> before = evaluate(*plain, false).values, after = evaluate(*side, false).values;
  EXPECT_EQ(after[0], before[0]);
  EXPECT_EQ(after[1], before[1]);
  plain->module().train();
  side->module().train();
  EXPECT_EQ(side->loss(10, 0).item<double>(), plain->loss(10, 0).item<double>());

  // A memory comes with its rows.
  const auto side_optimizers = optimizers_of(*side);
  train(*side, *side_optimizers, 0, 3, 3);
  const fs::path of_side = checkpoint_of(*side, *side_optimizers, 3);
  const auto again = make({"main:model.memory.reinitialise.keys=query"}, {}, of_side);
  StartWeights(of_side, {}).copy_into(*again);
  EXPECT_TRUE(torch::equal(again->tables()[0].first->store().values(), side->tables()[0].first->store().values()));
  EXPECT_EQ(evaluate(*again, false).values, evaluate(*side, false).values);
  expect_error(ExitCode::input,
               "a memory must come with its rows, from a run or its step-N folder, got layer3.0.memory",
               [&] { StartWeights(of_side / "model.safetensors", {}).copy_into(*again); });
  expect_error(ExitCode::input, "every table must belong to the model",
               [&] { StartWeights(of_side, {}).copy_into(*plain); });
}

TEST_F(ImageTask, TheInputOfARunIsReadWithCare) {
  const auto task = make();
  const std::string good = task->files().at(0).second;
  const fs::path path = runs_ / "images.json";
  const auto write = [&](const std::string& text) { std::ofstream(path, std::ios::trunc) << text; };
  write(good);
  EXPECT_EQ(ImageInput::load(path).save(), good);
  for (const auto& [from, to] :
       {std::pair("\"height\":8", "\"height\":0"), std::pair("\"channels\":3", "\"channels\":2"),
        std::pair("\"channels\":3", "\"channels\":1"), std::pair("\"class-0\",", "7,"),
        std::pair("\"mean\"", "\"median\""), std::pair("{", "")}) {
    std::string bad = good;
    bad.replace(bad.find(from), std::string(from).size(), to);
    write(bad);
    expect_error(ExitCode::input, "the file must say what a run's images are: classes, size, scale",
                 [&] { ImageInput::load(path); });
  }
}

TEST_F(ImageTask, RefusesDataThatDoNotFit) {
  expect_error(ExitCode::usage, "data.train_images: it must be at most the folder's 60, got 61",
               [&] { make({"data.train_images=61"}); });
  expect_error(ExitCode::usage, "it must be empty or [height, width]", [&] { make({"data.size=[8]"}); });
  expect_error(ExitCode::usage, "memory.block must be within -1 .. 0, got 1", [&] { make({"model.memory.block=1"}); });
  fs::rename(folder_ / "test/class-2", folder_ / "test/class-3");
  expect_error(ExitCode::input, "train and test must hold images of the same classes, got none of class-2",
               [&] { make(); });
  TemporaryFolder empty;
  expect_error(ExitCode::input, "the folder must hold images in class folders", [&] { make({}, empty.path()); });
}

}  // namespace
}  // namespace loci
