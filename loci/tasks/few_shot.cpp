// Legend: K ways (characters of a task), N support drawings of a task, Q its queries, H support drawings with gradient.
#include "loci/tasks/few_shot.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rot90.h>

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"
#include "loci/base/progress.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

constexpr int64_t kOmniglotSide = 105;
constexpr uint64_t kTestSeed = 0;                     // of the test tasks of every run
constexpr uint64_t kDrawsOfTask = uint64_t{1} << 32;  // of subsets; more than any task takes

std::shared_ptr<const OpenedCharacters> open_characters(const CharacterFolderOptions& options,
                                                        const TaskInputs& inputs) {
  if (auto opened = std::dynamic_pointer_cast<const OpenedCharacters>(inputs.opened)) return opened;
  auto opened = std::make_shared<OpenedCharacters>();
  opened->data = load_characters(inputs.data, options, *inputs.progress);
  for (const std::string& notice : opened->data.notices) inputs.progress->finish(notice);
  return opened;
}

// Drawings [items, channels, height, width] as numbers of 0 .. 1, ink 1; those of a character turned alike.
at::Tensor ink_of(const ImageSet& images, const std::vector<int64_t>& items, const std::vector<int64_t>& turns) {
  const ImageShape& shape = images.shape();
  const at::Tensor bytes = at::empty({std::ssize(items), shape.height, shape.width, shape.channels}, at::kByte);
  for (int64_t i = 0; i < std::ssize(items); ++i) {
    images.read(items[static_cast<size_t>(i)], bytes.mutable_data_ptr<uint8_t>() + i * shape.bytes());
  }
  at::Tensor ink = (1 - bytes.permute({0, 3, 1, 2}).to(at::kFloat) / 255).contiguous();
  const int64_t each = std::ssize(items) / std::ssize(turns);
  for (int64_t way = 0; way < std::ssize(turns); ++way) {
    if (turns[static_cast<size_t>(way)] == 0) continue;
    at::Tensor own = ink.narrow(0, way * each, each);
    own.copy_(at::rot90(own, turns[static_cast<size_t>(way)], {2, 3}).clone());
  }
  return ink;
}

// [low, high] of a mean of independent values, 95 %.
std::pair<double, double> mean_interval(const std::vector<double>& values) {
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  const double mean = sum / static_cast<double>(values.size());
  for (const double value : values) squares += (value - mean) * (value - mean);
  const double freedom = std::max<double>(1, static_cast<double>(values.size()) - 1);
  const double reach = 1.959963984540054 * std::sqrt(squares / freedom / static_cast<double>(values.size()));
  return {mean - reach, mean + reach};
}

}  // namespace

void FewShotData::fields(ConfigFields& f) {
  folder.fields(f);
  f.field("turned", turned, "each character of a training task is turned by a random number of quarters");
}

void TestEpisodes::fields(ConfigFields& f) {
  episode.fields(f);
  f.field("tasks", tasks, "tasks of an evaluation, the same for every seed", {.minimum = 1, .maximum = 1 << 20});
}

void SubsetSettings::fields(ConfigFields& f) {
  constexpr int64_t most = 1 << 24;
  f.field("kept", kept, "support drawings of a task that carry its gradient; 0: all", {.minimum = 0, .maximum = most});
  f.field("chunk", chunk, "drawings that are embedded at once without gradient", {.minimum = 1, .maximum = most});
  f.field("scale", scale, "the gradient of a kept drawing is multiplied by support / kept; false: biased");
}

void FewShotPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("episodes", episodes);
  f.section("test", test);
  f.section("model", model);
  f.section("subset", subset);
}

FewShotNetOptions FewShotPlan::model_for(const ImageShape& shape) const {
  FewShotNetOptions options = model;
  options.inputs = shape.channels;
  options.height = shape.height;
  options.width = shape.width;
  return options;
}

FewShotNetOptions FewShotPlan::assumed_model() const {
  const ImageOptions& image = data.folder.image;
  const int64_t channels = image.color == ImageColor::grey ? 1 : 3;
  if (image.size.empty()) return model_for({kOmniglotSide, kOmniglotSide, channels});
  return model_for({image.size[0], image.size[1], channels});
}

void FewShotPlan::check() const {
  check_image_size(data.folder.image);
  const auto& size = data.folder.image.size;
  if (data.turned && !size.empty() && size[0] != size[1]) {
    fail(ExitCode::usage, "config", "data.size must be square where data.turned is true",
         fmt::format("{} x {}", size[0], size[1]));
  }
  if (subset.kept > episodes.support()) {
    fail(ExitCode::usage, "config",
         fmt::format("subset.kept must be at most the {} drawings of a support set", episodes.support()),
         fmt::to_string(subset.kept));
  }
  assumed_model().check();
}

RunSize FewShotPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool bfloat16) const {
  const FewShotNetOptions options = assumed_model();
  RunSize size = network_size(options.parameters(), options.multiply_adds(episodes.support(), episodes.asked()), batch);
  const double bytes = bfloat16 ? 2 : 4;
  const int64_t kept = subset.of(episodes.support()).kept;
  add_activations(size, bytes * options.kept_numbers(kept, episodes.asked()), batch);
  return size;
}

std::unique_ptr<Task> FewShotPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<FewShot>(*this, inputs);
}

std::unique_ptr<TaskPlan> few_shot_plan() {
  return std::make_unique<FewShotPlan>();
}

FewShot::FewShot(const FewShotPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      seed_(inputs.seed),
      opened_(open_characters(plan.data.folder, inputs)),
      training_("episodes", opened_->data.train, plan.episodes, plan.data.turned, inputs.seed),
      test_("test", opened_->data.test, plan.test.episode, false, kTestSeed),
      network_(std::make_shared<FewShotNet>(plan.model_for(opened_->data.train.images.shape()), inputs.seed)),
      progress_(inputs.progress) {
  const ImageShape& shape = opened_->data.train.images.shape();
  if (plan.data.turned && shape.height != shape.width) {
    fail(ExitCode::input, inputs.data.string(), "drawings must be square where data.turned is true",
         fmt::format("{} x {}", shape.height, shape.width));
  }
}

FewShot::Drawn FewShot::drawn(const CharacterDrawings& data, const EpisodeOptions& options, const Episode& episode) {
  return {ink_of(data.images, episode.support, episode.turns), ink_of(data.images, episode.queries, episode.turns),
          at::arange(options.ways, at::kLong).repeat_interleave(options.queries)};
}

at::Tensor FewShot::loss(int64_t step, int64_t micro) {
  if (bytes_before_ == 0) bytes_before_ = resident_bytes();
  at::Tensor sum;
  const int64_t tasks = batch_.per_micro_batch();
  for (int64_t i = 0; i < tasks; ++i) {
    const int64_t number = (step * batch_.accumulation + micro) * tasks + i;
    const Drawn task = drawn(opened_->data.train, plan_.episodes, training_.at(number));
    RandomSequence random(CounterRandom(seed_, "subsets"), static_cast<uint64_t>(number) * kDrawsOfTask);
    const at::Tensor logits = network_->forward(task.support, task.queries, plan_.episodes.ways,
                                                plan_.subset.of(plan_.episodes.support()), random);
    right_.add(logits, task.labels);
    const at::Tensor loss = at::cross_entropy_loss(logits, task.labels);
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum / static_cast<double>(tasks);
}

std::vector<Measure> FewShot::measures() const {
  return {{"accuracy", 2, false, "%", "share of the queries of test tasks whose character is the likeliest"},
          {"loss", 4, true, "nats", "what the network misses of the characters, per query"}};
}

at::Tensor FewShot::test_logits(const Drawn& task) const {
  const at::NoGradGuard guard;
  RandomSequence unused(CounterRandom(0, 0));
  return network_->forward(task.support, task.queries, plan_.test.episode.ways, {1, plan_.subset.chunk}, unused);
}

Evaluation FewShot::evaluate() {
  std::vector<double> accuracies;
  double nats = 0;
  for (int64_t number = 0; number < plan_.test.tasks; ++number) {
    StopSignal::check("stopped while the model was evaluated");
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating: {} of {} tasks", number, plan_.test.tasks));
    const Drawn task = drawn(opened_->data.test, plan_.test.episode, test_.at(number));
    const at::Tensor logits = test_logits(task);
    accuracies.push_back(logits.argmax(1).eq(task.labels).to(at::kDouble).mean().item<double>());
    nats += at::cross_entropy_loss(logits, task.labels).item<double>();
  }
  const auto [low, high] = mean_interval(accuracies);
  nlohmann::json details = {{"tasks", plan_.test.tasks},
                            {"queries", plan_.test.tasks * plan_.test.episode.asked()},
                            {"accuracy_interval", {low, high}},
                            {"parameters", network_->options().parameters()}};
  if (bytes_before_ > 0) details["memory_beyond_start"] = peak_resident_bytes() - bytes_before_;
  return {{(low + high) / 2, nats / static_cast<double>(plan_.test.tasks)}, details};
}

Account FewShot::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const EpisodeOptions& episode = plan_.test.episode;
  account.text = fmt::format(
      "{} test tasks of {} characters, {} drawings of each to learn from and {} asked for; {} parameters\n{}\n",
      evaluation.details.at("tasks").get<int64_t>(), episode.ways, episode.shots, episode.queries,
      evaluation.details.at("parameters").get<int64_t>(),
      accuracy_text(evaluation.values[0], evaluation.details.at("accuracy_interval")));
  return account;
}

int64_t FewShot::infer(int64_t position) {
  test_logits(drawn(opened_->data.test, plan_.test.episode, test_.at(position % plan_.test.tasks)));
  return 1;
}

nlohmann::json FewShot::data_facts() const {
  const CharacterSets& data = opened_->data;
  return {{"training characters", data.train.characters.size()},
          {"training drawings", data.train.images.size()},
          {"test characters", data.test.characters.size()},
          {"test drawings", data.test.images.size()}};
}

}  // namespace loci
