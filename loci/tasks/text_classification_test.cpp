#include "loci/tasks/text_classification.h"

#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <span>

#include "loci/base/durable_file.h"
#include "loci/base/wilson.h"
#include "loci/table/row_store.h"
#include "loci/tasks/all.h"
#include "loci/train/experiment.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

// A memory is there so that what starts from a checkpoint has tables.
constexpr const char* kModel = R"(
[model]
causal = false
layers = 1
width = 16
heads = 2
context = 16
[model.memory]
layers = [0]
rows = 25
heads = 2
top_k = 3
key_width = 4
query_norm = "layer"
[tokenizer]
kind = "bytes"
)";

constexpr const char* kClassify = R"(
task = "text_classification"
seeds = [3]
[train]
steps = 40
batch = 8
threads = 1
precision = "float32"
[optimizer]
learning_rate = 0.01
)";

// "good" and "bad" texts, told apart by a letter that stands anywhere in them.
void write_texts(const fs::path& folder) {
  fs::create_directories(folder);
  for (const auto& [part, count] : {std::pair("train", 40), {"validation", 20}, {"test", 10}}) {
    std::ofstream file(folder / (part + std::string(".tsv")));
    file << "text\tlabel\n";
    for (int i = 0; i < count; ++i) {
      std::string text(static_cast<size_t>(3 + i % 7), 'a');
      text[static_cast<size_t>(i % 3)] = i % 2 == 0 ? 'x' : 'y';
      file << text << "\t" << (i % 2 == 0 ? "good" : "bad") << "\n";
    }
  }
}

class TextClassificationTest : public testing::Test {
 protected:
  TextClassificationTest() { write_texts(folder_ / "texts"); }

  Recipe read(const std::vector<std::string>& settings = {}, const std::string& text = kClassify) const {
    return read_recipe(Config::from_text(text + std::string(kModel)), settings, all_tasks());
  }
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}) {
    recipe_ = read(settings);
    const RunConfig& config = recipe_.arms[0].config;
    TaskInputs inputs;
    inputs.data = folder_ / "texts";
    inputs.seed = 3;
    inputs.batch = config.batch();
    inputs.rows = config.table_optimizer;
    inputs.progress = &progress_;
    return config.plan->make(inputs);
  }
  ExperimentOptions options_for(const std::string& out, const std::string& data) const {
    ExperimentOptions options;
    options.out = folder_ / out;
    options.data = folder_ / data;
    options.cache = folder_ / "cache";
    options.quiet = true;
    options.turn_seconds = 0.001;
    return options;
  }

  TemporaryFolder folder_;
  ProgressLine progress_{true};
  Recipe recipe_;
};

TEST_F(TextClassificationTest, LearnsWhatALetterSays) {
  const Summary summary = Experiment(read({"data.test=test.tsv"}), options_for("out", "texts")).run();
  const std::map<std::string, double>& measures = summary.runs.at(0).measures;
  EXPECT_EQ(measures.at("accuracy"), 1);
  EXPECT_EQ(measures.at("matthews"), 1);
  EXPECT_EQ(measures.at("test_accuracy"), 1);
  EXPECT_EQ(measures.at("test_matthews"), 1);
  EXPECT_EQ(summary.unit, "texts");
  EXPECT_EQ(summary.runs[0].units, 320);
}

TEST_F(TextClassificationTest, LossIsAFunctionOfStepAndSeed) {
  const auto task = make();
  const double first = task->loss(0, 0).item<double>(), later = task->loss(7, 0).item<double>();
  EXPECT_NEAR(first, std::log(2.0), 0.1);
  EXPECT_NE(first, later);
  EXPECT_EQ(task->loss(0, 0).item<double>(), first);
  EXPECT_EQ(make()->loss(7, 0).item<double>(), later);
  const auto halves = make({"train.accumulation=2"});
  EXPECT_NEAR((halves->loss(7, 0) + halves->loss(7, 1)).item<double>() / 2, later, 1e-6);
}

TEST_F(TextClassificationTest, AnEvaluationCountsEveryTextOnceAndHasAnInterval) {
  const auto task = make({"data.test=test.tsv"});
  const Evaluation measured = evaluate(*task, false);
  EXPECT_EQ(measured.values.size(), task->measures().size());
  EXPECT_EQ(measured.details["texts"], 20);
  EXPECT_EQ(measured.details["test_texts"], 10);
  const Interval interval = wilson_interval(std::llround(measured.values[0] * 20), 20);
  EXPECT_EQ(measured.details["accuracy_interval"], nlohmann::json::array({interval.low, interval.high}));
  const c10::InferenceMode no_gradient;
  const std::string text = account_of(*task, measured, {}, false).text;
  EXPECT_NE(text.find("20 validation texts of 2 classes: accuracy "), std::string::npos) << text;
  EXPECT_NE(text.find("10 test texts of 2 classes: accuracy "), std::string::npos) << text;
  EXPECT_NE(text.find(", Matthews correlation "), std::string::npos) << text;
  EXPECT_EQ(evaluate(*make(), false).values.size(), 3u);  // accuracy, loss, matthews
  EXPECT_EQ(task->infer(5), 20);
}

TEST(MatthewsCorrelation, IsThatOfItsFormula) {
  const auto value = [](const std::vector<int64_t>& predicted, const std::vector<int64_t>& labels) {
    MatthewsCorrelation matthews;
    matthews.add(at::tensor(predicted, at::kLong), at::tensor(labels, at::kLong));
    return matthews.value();
  };
  EXPECT_EQ(value({0, 1, 1}, {0, 1, 1}), 1);
  EXPECT_EQ(value({1, 0, 0}, {0, 1, 1}), -1);
  EXPECT_EQ(value({1, 1, 1}, {0, 1, 1}), 0);  // one class alone is predicted
  // tp 3, tn 1, fp 2, fn 1: (3 - 2) / sqrt(5 * 4 * 3 * 2).
  EXPECT_NEAR(value({1, 1, 1, 0, 1, 1, 0}, {1, 1, 1, 0, 0, 0, 1}), 1 / std::sqrt(120.0), 1e-12);
}

// The whole way: a masked language model is trained, and the classifier starts from its run.
TEST_F(TextClassificationTest, StartsFromARunOfAMaskedLanguageModel) {
  fs::create_directories(folder_ / "books");
  for (int i = 0; i < 4; ++i) {
    std::ofstream(folder_ / "books" / fmt::format("{}.txt", i)) << std::string(400, static_cast<char>('a' + i));
  }
  const std::string pretrain =
      "task = \"language_model\"\nseeds = [3]\n[train]\nsteps = 2\nbatch = 4\nthreads = 1\nprecision = \"float32\"\n";
  const ExperimentOptions options = options_for("lm", "books");
  Experiment(read({"data.validation_share=0.3"}, pretrain), options).run();
  const std::vector<std::string> settings = {
      "main:start.weights=\"" + (folder_ / "lm/{arm}/seed-{seed}").string() + "\"", "optimizer.learning_rate=0",
      "table_optimizer.learning_rate=0"};
  Experiment(read(settings), options_for("out", "texts")).run();
  const std::string rows = "table.layers.0.memory.values.safetensors";
  const auto file = [&](const std::string& run, const std::string& name) {
    return read_text_file(folder_ / run / name);
  };
  EXPECT_EQ(file("out/main/seed-3/step-40", rows), file("lm/main/seed-3/step-2", rows));
  EXPECT_EQ(file("out/main/seed-3/step-40", "tokenizer.model"), file("lm/main/seed-3/step-2", "tokenizer.model"));
  // Its classes are kept: other labels are refused, and it predicts.
  const CheckpointReader checkpoint(folder_ / "out/main/seed-3/step-40");
  const Recipe recipe = read(settings);
  const auto& plan = dynamic_cast<const TextClassificationPlan&>(*recipe.arms[0].config.plan);
  const LoadedTextClassifier loaded = load_text_classifier(plan, 3, checkpoint);
  EXPECT_EQ(loaded.classes, (std::vector<std::string>{"bad", "good"}));
  const std::vector<LabelledText> texts = {{"aax", "", -1}, {"y", "", -1}};
  const at::Tensor probabilities = text_probabilities(loaded, texts);
  EXPECT_EQ(probabilities.sizes(), (std::vector<int64_t>{2, 2}));
  EXPECT_TRUE(probabilities.sum(1).allclose(at::ones({2})));
  const std::span<const LabelledText> short_one = std::span(texts).subspan(1);
  EXPECT_TRUE(text_probabilities(loaded, short_one)[0].allclose(probabilities[1], 1e-5, 1e-6));
  // What the run measured is the mean over the texts, each of them alone: padding plays no part.
  const LabelledTexts all = read_labelled_texts(folder_ / "texts", plan.data);
  double nats = 0;
  for (const LabelledText& text : all.validation) {
    const at::Tensor alone = text_probabilities(loaded, std::span(&text, 1));
    nats -= std::log(alone[0][text.label].item<double>()) / static_cast<double>(all.validation.size());
  }
  const Summary summary = read_summary(folder_ / "out/summary.json");
  EXPECT_NEAR(summary.runs.at(0).measures.at("loss"), nats, 1e-5);
  TaskInputs inputs;
  inputs.data = folder_ / "texts";
  inputs.checkpoint = checkpoint.path();
  inputs.batch = {4, 1};
  inputs.progress = &progress_;
  plan.make(inputs);
  for (const char* part : {"train", "validation"}) {
    std::ofstream(folder_ / "texts" / (part + std::string(".tsv"))) << "text\tlabel\na\t0\nb\t1\n";
  }
  expect_error(ExitCode::input, "texts: labels must be those of the run, [\"bad\",\"good\"]",
               [&] { plan.make(inputs); });
}

TEST_F(TextClassificationTest, MistakesAreToldBeforeTheDataIsRead) {
  fs::remove_all(folder_ / "texts");
  const auto refused = [&](const std::string& message, const std::vector<std::string>& settings) {
    expect_error(ExitCode::usage, message, [&] { read(settings); });
  };
  refused("text_classification: model.context must be at least 3, got 2", {"model.context=2"});
  refused("text_classification: model.context must be at least 5, got 4", {"model.context=4", "data.pair=other"});
  refused("classifier.pooling must be mean or last where model.causal is true, got first",
          {"model.causal=true", "classifier.pooling=first"});
  refused("model.memory.calibrate_at must be -1", {"model.memory.calibrate_at=3"});
  refused("model.memory.reinitialise must be absent", {"main:model.memory.reinitialise.window=3"});
  refused("data.text must be given", {"data.text="});
  refused("start.continues must be false for the task text_classification",
          {"main:start.weights=x", "main:start.continues=true", "main:start.units_before=3"});
  expect_error(ExitCode::input, "texts/train.tsv", [&] { make(); });
}

}  // namespace
}  // namespace loci
