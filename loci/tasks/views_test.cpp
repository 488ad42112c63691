#include "loci/tasks/views.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <fstream>
#include <set>

#include "tests/op_harness.h"
#include "tests/task_test.h"

namespace loci {
namespace {

constexpr const char* kViewsRecipe = R"(
task = "views"
[data]
clusters = 8
warm = 240
cold = 60
latent = 6
width = 12
[model]
width = 12
hidden = 24
[train]
batch = 24
precision = "float32"
[optimizer]
learning_rate = 5e-3
weight_decay = 0
[optimizer.schedule]
warmup = 0
)";

const std::vector<std::string> kSums = {"attention", "mean", "concatenation", "single"};

class ViewsTask : public TaskTest {
 protected:
  ViewsTask() : TaskTest(kViewsRecipe) {}
  std::unique_ptr<Task> make(const std::vector<std::string>& settings = {}, const std::string& data = "") {
    return make_task(settings, data);
  }
  // Entities of two kinds whose glosses share words, one in two of them with neighbours.
  std::filesystem::path write_entities() {
    std::ofstream entities(folder_ / "entity2text.txt"), triples(folder_ / "train.tsv");
    const char* words[2][4] = {{"barks", "fur", "tail", "bone"}, {"sings", "wing", "nest", "egg"}};
    for (int kind = 0; kind < 2; ++kind) {
      entities << fmt::format("kind{0}\tkind {0}, animals\n", kind);
      for (int i = 0; i < 40; ++i) {
        entities << fmt::format("e{}-{}\tname{}{}, it {} with a {}\n", kind, i, kind, i, words[kind][i % 4],
                                words[kind][(i / 4) % 4]);
        triples << fmt::format("e{0}-{1}\t_hypernym\tkind{0}\n", kind, i);
        if (i % 2 == 0) triples << fmt::format("e{0}-{1}\t_also_see\te{0}-{2}\n", kind, i, (i + 2) % 40);
      }
    }
    return folder_.path();
  }
  static const std::vector<std::string>& words() {
    static const std::vector<std::string> settings = {"data.kind=words",    "data.triples=[\"train.tsv\"]",
                                                      "data.words=12",      "model.rows=500",
                                                      "model.row_width=16", "train.batch=8"};
    return settings;
  }
  TemporaryFolder folder_;
};

// The words' recipe is another one, for items have keys of their own.
std::string words_recipe() {
  std::string text = kViewsRecipe;
  const size_t begin = text.find("clusters"), end = text.find("[model]");
  return text.replace(begin, end - begin, "kind = \"words\"\n");
}

class WordViewsTask : public ViewsTask {
 protected:
  WordViewsTask() { recipe_ = words_recipe(); }
};

TEST_F(ViewsTask, LearnsToFindColdItemsOfACluster) {
  const auto task = make();
  const double before = evaluate(*task, false).values[0];
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 150, 150);
  const Evaluation after = evaluate(*task, false);
  EXPECT_GT(after.values[0], 0.6);
  EXPECT_GT(after.values[0], before + 0.2);
  EXPECT_GT(after.values[0], after.values[2]);  // fewer views, fewer hits
  EXPECT_GT(after.values[3], 0.55);             // weight of clean views; 0.5 by chance
  EXPECT_NEAR(task->baselines(0).front().measures.at("precision"), 1.0 / 8, 1e-9);
}

TEST_F(ViewsTask, ParametersAreThoseThatArePlanned) {
  for (const std::string& sum : kSums) {
    const auto task = make({"model.combine=" + sum});
    int64_t count = 0;
    for (const at::Tensor& parameter : task->module().parameters()) count += parameter.numel();
    const RunSize size = config_->plan->size(config_->batch(), config_->table_optimizer, false);
    EXPECT_EQ(size.parameters_dense, count) << sum;
    EXPECT_GT(size.multiply_adds, 6 * 3 * 24 * (12 + 12) - 1) << sum;
    EXPECT_EQ(evaluate(*task, false).details.at("parameters"), count) << sum;
  }
}

TEST_F(ViewsTask, APairIsARelatedOneAndUnrelatedOnes) {
  const auto task = make({"data.clusters=3", "data.warm=6", "data.negatives=5"});
  auto& views = dynamic_cast<Views&>(*task);
  std::set<int64_t> first, partners;
  for (int64_t position = 0; position < 60; ++position) {
    const std::vector<int64_t> things = views.pair(position);
    ASSERT_EQ(things.size(), 7U);
    EXPECT_EQ(things, views.pair(position));
    EXPECT_EQ(things[0] % 3, things[1] % 3);
    EXPECT_NE(things[0], things[1]);
    for (size_t i = 2; i < things.size(); ++i) {
      EXPECT_NE(things[i] % 3, things[0] % 3);
      EXPECT_LT(things[i], 6);
    }
    first.insert(things[0]);
    partners.insert(things[1]);
  }
  EXPECT_EQ(first.size(), 6U);
  EXPECT_EQ(partners.size(), 6U);
}

// By each of the sums: what stands in an absent view plays no part, and a net of one view sees that one alone.
TEST_F(ViewsTask, AbsentViewsChangeNoBit) {
  for (const std::string& sum : kSums) {
    ViewNetOptions options{.combine = ViewSum::single, .view = 1, .inputs = 5};
    for (const auto& [name, word] : {std::pair("attention", ViewSum::attention), std::pair("mean", ViewSum::mean),
                                     std::pair("concatenation", ViewSum::concatenation)}) {
      if (sum == name) options.combine = word;
    }
    const ViewNet net(options, 1);
    torch::manual_seed(1);
    const torch::Tensor mask = torch::rand({20, 3}) < 0.5, drawn = torch::randn({20, 3, 5});
    const auto encode = [&](double content) {
      return net.encode({.values = torch::where(mask.unsqueeze(-1), drawn, content)}, mask).first;
    };
    const torch::Tensor expected = encode(0);
    EXPECT_TRUE(torch::allclose(expected.norm(2, 1), torch::ones(20)));
    for (const double content : {1.0, -1e30, std::nan("")}) {
      EXPECT_TRUE(harness::same_bits(encode(content), expected)) << sum << " " << content;
    }
    torch::Tensor others = drawn.clone();
    others.select(1, 0).add_(1);
    const torch::Tensor moved = net.encode({.values = others}, mask).first;
    EXPECT_EQ(torch::equal(moved, expected), options.combine == ViewSum::single) << sum;
  }
}

TEST_F(ViewsTask, FewerViewsAreSomeOfThem) {
  const torch::Tensor mask = torch::rand({300, 3}) < 0.8;
  const torch::Tensor two = views_left(mask, 2), one = views_left(mask, 1);
  EXPECT_TRUE(torch::equal(views_left(mask, 3), mask));
  EXPECT_TRUE(torch::equal(two.sum(1), mask.sum(1).clamp_max(2)));
  EXPECT_TRUE(torch::equal(one.sum(1), mask.sum(1).clamp_max(1)));
  EXPECT_TRUE(torch::equal(one.logical_and(two), one));
  EXPECT_TRUE(torch::equal(two.logical_and(mask), two));
  for (int64_t k = 0; k < 3; ++k) EXPECT_GT(one.select(1, k).sum().item<int64_t>(), 60) << k;
}

TEST_F(ViewsTask, PrecisionCountsTheFirstOnes) {
  OpenedViews data;
  data.warm = 4;
  data.group = {0, 0, 1, 1, 0, 1};  // two cold ones
  const torch::Tensor score = torch::tensor({{9.0, 1.0, 8.0, 0.0}, {3.0, 2.0, 1.0, 5.0}});
  EXPECT_DOUBLE_EQ(precision_of(data, score, 1), 1);
  EXPECT_DOUBLE_EQ(precision_of(data, score, 2), 0.5);
  EXPECT_DOUBLE_EQ(precision_of(data, score, 10), 0.5);
}

TEST_F(ViewsTask, ASumThatHasNoWeightsSaysNoMassOfViews) {
  const Evaluation evaluation = evaluate(*make({"model.combine=concatenation"}), false);
  EXPECT_TRUE(std::isnan(evaluation.values[3]));
  EXPECT_FALSE(evaluation.details.contains("weight"));
  const auto task = make({"model.combine=mean"});
  const Evaluation mean = evaluate(*task, false);
  EXPECT_NEAR(mean.details.at("weight").at("view 0").get<double>(), 1.0 / 3, 1e-6);
  EXPECT_NE(task->account(mean, {}).text.find("view 0 0.333"), std::string::npos);
  EXPECT_TRUE(std::isnan(evaluate(*make({"data.hide_noisy=true"}), false).values[3]));
}

TEST_F(ViewsTask, ResumesBitForBit) {
  expect_resume_bit_for_bit([&](const auto& checkpoint) { return make_task({}, "", checkpoint); });
}

TEST_F(ViewsTask, RefusesWhatDoesNotFit) {
  expect_error(ExitCode::usage, "model.view must be less than the 3 views, got 3",
               [&] { make({"model.combine=single", "model.view=3"}); });
  expect_error(ExitCode::usage, "data.warm must be at least 2 * data.clusters", [&] { make({"data.warm=15"}); });
  expect_error(ExitCode::usage, "model.rows", [&] { make({"model.rows=10"}); });
}

TEST_F(WordViewsTask, LearnsToFindColdEntities) {
  const auto task = make(words(), write_entities());
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 80, 80);
  const Evaluation found = evaluate(*task, false);
  EXPECT_EQ(found.values.size(), 3U);
  EXPECT_GT(found.values[0], 0.9);
  EXPECT_TRUE(found.details.at("weight").contains("gloss"));
  const auto baselines = task->baselines(0);
  ASSERT_EQ(baselines.size(), 2U);
  EXPECT_NEAR(baselines[0].measures.at("precision"), 0.5, 0.1);
  EXPECT_GT(baselines[1].measures.at("precision"), 0.7);
  EXPECT_EQ(task->data_facts().at("groups"), 2);
}

// The rows that words read are trained, and others stay.
TEST_F(WordViewsTask, RowsOfWordsAreTrainedAndOthersStay) {
  const auto task = make(words(), write_entities());
  const torch::Tensor before = task->tables()[0].first->store().values().clone();
  const auto optimizers = optimizers_of(*task);
  train(*task, *optimizers, 0, 5, 5);
  const torch::Tensor moved = (task->tables()[0].first->store().values() != before).any(1);
  const auto trained = moved.sum().item<int64_t>();
  EXPECT_GT(trained, 50);
  EXPECT_LT(trained, 450);
  EXPECT_FALSE(moved[0].item<bool>());  // of no word
}

TEST_F(WordViewsTask, ResumesBitForBit) {
  const auto folder = write_entities();
  expect_resume_bit_for_bit([&](const auto& checkpoint) { return make_task(words(), folder, checkpoint); });
}

TEST_F(WordViewsTask, AGroupNeedsTwoWarmEntities) {
  int64_t refused = 0;
  for (int64_t seed = 0; seed < 30; ++seed) {
    std::vector<std::string> settings = words();
    settings.insert(settings.end(), {"data.cold_share=0.9", fmt::format("data.split_seed={}", seed)});
    try {
      make(settings, write_entities());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::input);
      EXPECT_NE(std::string(error.what()).find("each group must keep two entities"), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, 30);
}

}  // namespace
}  // namespace loci
