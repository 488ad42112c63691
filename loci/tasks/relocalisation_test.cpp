#include "loci/tasks/relocalisation.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>

#include "loci/table/row_store.h"
#include "tests/task_test.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRoomRecipe = R"(
task = "relocalisation"
[data]
kind = "room"
width = 24
height = 18
train_paths = 4
test_paths = 1
frames = 60
[model]
width = 8
head_width = 64
dropout = 0
[train]
batch = 24
precision = "float32"
[optimizer]
learning_rate = 5e-3
weight_decay = 0
[optimizer.schedule]
warmup = 0
[table_optimizer]
learning_rate = 5e-3
)";
const std::vector<std::string> kHead = {"main:model.memory.rows=256", "main:model.memory.heads=4",
                                        "main:model.memory.top_k=8", "main:model.memory.key_width=16"};

class RelocalisationTest : public TaskTest {
 protected:
  RelocalisationTest() : TaskTest(kRoomRecipe) {}
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const fs::path& checkpoint = {},
                             std::shared_ptr<const OpenedData> opened = nullptr) {
    return make_task(settings, {}, checkpoint, std::move(opened));
  }
};

// On a path that no training path follows.
TEST_F(RelocalisationTest, BothHeadsBeatTheConstantPose) {
  std::shared_ptr<const OpenedData> opened;
  for (const auto& settings : {std::vector<std::string>{}, kHead}) {
    const auto task = make(settings, {}, opened);
    opened = task->opened_data();
    const auto optimizers = optimizers_of(*task);
    train(*task, *optimizers, 0, 200, 200);
    const Evaluation evaluation = evaluate(*task, false);
    const std::vector<Baseline> baselines = task->baselines(200);
    ASSERT_EQ(baselines.size(), 3u);
    EXPECT_EQ(baselines[0].name, "constant");
    EXPECT_LT(evaluation.values[0], 0.92 * baselines[0].measures.at("metres"));
    EXPECT_LT(evaluation.values[1], 0.4 * baselines[0].measures.at("degrees"));
    EXPECT_LT(baselines[2].measures.at("metres"), evaluation.values[0]) << "the oracle";
    EXPECT_LT(evaluation.details.at("train").at("metres").get<double>(), evaluation.values[0]);
    EXPECT_EQ(evaluation.details.at("images"), 60);
    EXPECT_EQ(task->measures().size(), evaluation.values.size());
  }
}

TEST_F(RelocalisationTest, LossIsAFunctionOfStepAndSeed) {
  const auto task = make({"model.dropout=0.5"});
  task->module().train();
  const double first = task->loss(0, 0).item<double>();
  EXPECT_NE(first, task->loss(7, 0).item<double>());
  const double later = task->loss(7, 0).item<double>();
  EXPECT_EQ(make({"model.dropout=0.5"}, {}, task->opened_data())->loss(7, 0).item<double>(), later);
}

TEST_F(RelocalisationTest, GoesOnBitForBit) {
  std::vector<std::string> settings = kHead;
  settings.emplace_back("model.dropout=0.5");
  std::shared_ptr<const OpenedData> opened;
  const fs::path checkpoint = expect_resume_bit_for_bit([&](const fs::path& from) {
    auto task = make(settings, from, opened);
    opened = task->opened_data();
    return task;
  });

  // The network alone, without the room.
  const LoadedPosenet loaded =
      load_posenet(dynamic_cast<const RelocalisationPlan&>(*config_->plan), 3, CheckpointReader(checkpoint));
  EXPECT_EQ(loaded.input.shape.height, 18);
  EXPECT_EQ(loaded.model->options().head_width, 64);
}

TEST_F(RelocalisationTest, ThePlannedSizesAreThoseOfTheModel) {
  std::shared_ptr<const OpenedData> opened;
  for (const auto& settings : {std::vector<std::string>{}, kHead}) {
    const auto task = make(settings, {}, opened);
    opened = task->opened_data();
    int64_t dense = 0;
    for (const NamedParameter& parameter : task->dense_parameters()) dense += parameter.value.numel();
    EXPECT_EQ(config_->size().parameters_dense, dense);
    EXPECT_EQ(config_->size().parameters_table, settings.empty() ? 0 : 256 * 64);
    EXPECT_EQ(evaluate(*task, false).details.at("multiply_adds"), config_->size().multiply_adds);
  }
}

TEST_F(RelocalisationTest, AFolderOfFramesIsADataSet) {
  TemporaryFolder folder;
  std::ofstream poses(folder / "poses.txt");
  for (int i = 0; i < 40; ++i) {
    write_png(folder / fmt::format("frame-{:02}.png", i),
              {{16, 24, 3}, std::vector<uint8_t>(16 * 24 * 3, static_cast<uint8_t>(5 * i))});
    poses << fmt::format("1 0 0 {} 0 1 0 0 0 0 1 2 0 0 0 1\n", 0.1 * i);
  }
  poses.close();
  const size_t begin = recipe_.find("kind = \"room\""), end = recipe_.find("[model]");
  recipe_.replace(begin, end - begin, "kind = \"sequence\"\ntest_blocks = [30, 39]\n");
  const auto task = make_task({}, folder.path());
  EXPECT_TRUE(config_->plan->needs_data());
  EXPECT_EQ(task->data_facts().at("training images"), 30);
  EXPECT_EQ(task->data_facts().at("test images"), 10);
  EXPECT_NE(task->data_key().find("test_blocks = [30, 39]"), std::string::npos) << task->data_key();
  const auto opened = std::dynamic_pointer_cast<const OpenedPoses>(task->opened_data());
  EXPECT_NEAR(opened->scale.mean[0], 5 * 14.5 / 255, 1e-6);  // of the training frames alone
  const at::Tensor input = opened->input(std::vector<int64_t>{7, 2}, {{0.1, 0, 0}, {0.5, 1, 1}});
  EXPECT_EQ(input.sizes(), (std::vector<int64_t>{2, 3, 16, 24}));
  EXPECT_NEAR(input[0][0][3][4].item<double>(), (35.0 / 255 - 0.1) / 0.5, 1e-6);
  EXPECT_NEAR(input[1][2][0][0].item<double>(), 10.0 / 255, 1e-6);
  // Before training every prediction is near the median of training, x = 1.45; the test is at 3 to 3.9.
  EXPECT_NEAR(evaluate(*task, false).values[0], 2, 0.2);
  EXPECT_EQ(task->infer(0), 10);
  recipe_ = kRoomRecipe;
  make();
  EXPECT_FALSE(config_->plan->needs_data());
}

TEST_F(RelocalisationTest, UsageIsOfTheTestFrames) {
  const auto task = make(kHead);
  const double usage = evaluate(*task, false).values[4];
  const auto opened = std::dynamic_pointer_cast<const OpenedPoses>(task->opened_data());
  auto& model = dynamic_cast<Posenet&>(task->module());
  model.eval();
  const auto counted = std::make_shared<Usage>(256);
  {
    const torch::NoGradGuard guard;
    const ObserverScope counting(*model.memory(), counted);
    model.read(opened->input(opened->split.test, opened->scale));
  }
  EXPECT_EQ(usage, counted->metrics().usage);
}

TEST_F(RelocalisationTest, PosesAreThoseOfTheTestFrames) {
  const auto task = make({});
  const Evaluation evaluation = evaluate(*task, false);
  AccountOptions options;
  options.poses = true;
  const nlohmann::json poses = account_of(*task, evaluation, options, false).json.at("poses");
  const auto opened = std::dynamic_pointer_cast<const OpenedPoses>(task->opened_data());
  std::vector<Pose> predicted, truth;
  const auto pose_at = [&poses](const std::string& position, const std::string& rotation, size_t i) {
    const auto q = poses.at(rotation).at(i).get<std::vector<double>>();
    return Pose{poses.at(position).at(i).get<decltype(Pose::position)>(), {q.at(0), q.at(1), q.at(2), q.at(3)}};
  };
  ASSERT_EQ(poses.at("true").size(), 60u);
  for (size_t i = 0; i < 60; ++i) {
    predicted.push_back(pose_at("predicted", "predicted_rotation", i));
    truth.push_back(pose_at("true", "true_rotation", i));
    EXPECT_EQ(poses.at("paths").at(i), opened->paths[static_cast<size_t>(opened->split.test[i])]);
  }
  const PoseErrors errors = pose_errors(predicted, truth);
  EXPECT_EQ(errors.metres, evaluation.values[0]);
  EXPECT_EQ(errors.degrees, evaluation.values[1]);
  EXPECT_FALSE(account_of(*task, evaluation, {}, false).json.contains("poses"));
}

TEST_F(RelocalisationTest, RowsAndPlacesAreForMemories) {
  AccountOptions places;
  places.places = true;
  const auto plain = make();
  const Evaluation evaluation = evaluate(*plain, false);
  expect_error(ExitCode::usage, "--places: RUN must be of relocalisation with a memory",
               [&] { plain->account(evaluation, places); });
  expect_error(ExitCode::usage, "--lengths", [&] { plain->account(evaluation, {.lengths = {3}}); });
  EXPECT_NE(account_of(*plain, evaluation, {}, false).text.find("training frames:"), std::string::npos);
  const auto task = make(kHead, {}, plain->opened_data());
  expect_error(ExitCode::usage, "a path must have at least 201 frames",
               [&] { task->account(evaluate(*task, false), places); });
}

}  // namespace
}  // namespace loci
