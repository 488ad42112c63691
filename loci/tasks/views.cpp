// Legend: B pairs of a micro-batch, K negatives, N things, W warm ones, V views, D width of a thing's vector.
#include "loci/tasks/views.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "loci/base/check.h"
#include "loci/base/random_sequence.h"
#include "loci/base/stop_signal.h"
#include "loci/tasks/network_size.h"

namespace loci {
namespace {

using at::Tensor;

constexpr int64_t kFirst = 10;           // of a cold thing's list, that precision is measured in
constexpr int64_t kThingsAtOnce = 1024;  // of an evaluation

}  // namespace

void ViewsPlan::fields(ConfigFields& f) {
  f.section("data", data);
  model.bags = data.kind == ViewDataKind::words;
  f.section("model", model);
}

void ViewsPlan::check() const {
  data.check();
  model_of_data().check();
}

ViewNetOptions ViewsPlan::model_of_data() const {
  ViewNetOptions options = model;
  options.bags = data.kind == ViewDataKind::words;
  options.views = options.bags ? EntityViews::kViews : ViewItemsOptions::kViews;
  options.inputs = data.items.width;
  return options;
}

RunSize ViewsPlan::size(const BatchShape& batch, const RowOptimizerOptions& rows, bool) const {
  const ViewNetOptions options = model_of_data();
  const int64_t things = 2 + data.negatives;  // of a pair
  RunSize size = network_size(options.parameters(), things * options.multiply_adds(), batch);
  if (options.bags) {
    size.parameters_table = checked_product("config", "numbers of the table", options.rows, options.row_width);
    size.memory.emplace_back("tables", checked_product("config", "bytes of the table", size.parameters_table, 4));
    size.memory.emplace_back("row optimiser state",
                             RowOptimizer::state_bytes(options.rows, options.row_width, rows, at::kFloat));
  } else {
    const int64_t numbers = options.views * (options.inputs + 1);
    size.memory.emplace_back("data", checked_product("config", "bytes of the items", data.items.items(), 4 * numbers));
  }
  add_activations(size, 4 * static_cast<double>(things) * options.kept_numbers(), batch);
  return size;
}

std::string ViewsPlan::data_settings() const {
  if (data.kind == ViewDataKind::items) return "";
  return data.settings() + fmt::format("rows = {}\n", model.rows);
}

std::unique_ptr<Task> ViewsPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<Views>(*this, inputs);
}

std::unique_ptr<TaskPlan> views_plan() {
  return std::make_unique<ViewsPlan>();
}

Views::Views(const ViewsPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      batch_(inputs.batch),
      rows_(inputs.rows),
      seed_(inputs.seed),
      opened_(open_views(plan.data, plan.model.rows, inputs)),
      model_(std::make_shared<ViewNet>(plan.model_of_data(), inputs.seed, inputs.tables)),
      order_(opened_->warm, inputs.seed) {}

std::vector<std::pair<TablePtr, RowOptimizerOptions>> Views::tables() {
  if (!model_->table()) return {};
  return {{model_->table(), rows_}};
}

std::vector<int64_t> Views::pair(int64_t position) const {
  RandomSequence random(
      CounterRandom(seed_, CounterRandom(seed_, "views.pairs").bits(static_cast<uint64_t>(position))));
  const auto group_of = [&](int64_t thing) { return opened_->group[static_cast<size_t>(thing)]; };
  std::vector<int64_t> things = {order_.at(position).item};
  const int64_t group = group_of(things[0]);
  const std::vector<int64_t>& members = opened_->members[static_cast<size_t>(group)];
  // Of the other members: the last one takes the place of the thing itself.
  int64_t other = members[random.below(members.size() - 1)];
  if (other == things[0]) other = members.back();
  things.push_back(other);
  while (std::ssize(things) < 2 + plan_.data.negatives) {
    const auto thing = static_cast<int64_t>(random.below(static_cast<uint64_t>(opened_->warm)));
    if (group_of(thing) != group) things.push_back(thing);
  }
  return things;
}

Tensor Views::loss(int64_t step, int64_t micro) {
  const int64_t B = batch_.per_micro_batch(), things = 2 + plan_.data.negatives;
  const int64_t first = (step * batch_.accumulation + micro) * B;
  std::vector<int64_t> index;
  for (int64_t i = 0; i < B; ++i) {
    const std::vector<int64_t> of_pair = pair(first + i);
    index.insert(index.end(), of_pair.begin(), of_pair.end());
  }
  const Tensor chosen = at::tensor(index, at::kLong);  // [B (2 + K)]
  const Tensor present = opened_->mask.index_select(0, chosen);
  const Tensor mask =
      drop_views(present, plan_.data.view_dropout, seed_, "views.dropout", first * things * present.size(1));
  const Tensor u = model_->encode(opened_->input_of(chosen), mask).first.view({B, things, -1});
  const Tensor others = u.slice(1, 1);  // [B, 1 + K, D]
  const Tensor score = model_->score().forward(u.slice(1, 0, 1).expand_as(others), others);
  const Tensor related = score.select(1, 0), unrelated = score.slice(1, 1);
  return (at::softplus(-related).sum() + at::softplus(unrelated).sum()) / static_cast<double>(score.numel());
}

std::vector<Measure> Views::measures() const {
  std::vector<Measure> measures = {
      {"precision", 1, false, "%", "share of the first ten of a cold thing's warm things that are of its group"},
      {"two_views", 1, false, "%", "the same where a cold thing keeps at most two views"},
      {"one_view", 1, false, "%", "the same where a cold thing keeps at most one view"}};
  if (opened_->clean.defined()) {
    measures.push_back(
        {"clean_mass", 3, false, "", "weight of the clean views of cold things that have noisy ones too"});
  }
  return measures;
}

std::pair<Tensor, Tensor> Views::encode(int64_t first, int64_t count, const Tensor& mask) const {
  std::vector<Tensor> vectors, weights;
  for (int64_t begin = first; begin < first + count; begin += kThingsAtOnce) {
    StopSignal::check("stopped while the model was evaluated");
    const int64_t end = std::min(begin + kThingsAtOnce, first + count);
    const auto [u, weight] =
        model_->encode(opened_->input_of(at::arange(begin, end, at::kLong)), mask.slice(0, begin, end));
    vectors.push_back(u);
    if (weight.defined()) weights.push_back(weight);
  }
  return {at::cat(vectors), weights.empty() ? Tensor() : at::cat(weights)};
}

Evaluation Views::evaluate() {
  const int64_t W = opened_->warm, cold = opened_->cold();
  const Tensor warm = encode(0, W, opened_->mask).first;
  Evaluation result{{}, {{"warm", W}, {"cold", cold}, {"parameters", model_->options().parameters()}}};
  Tensor weights;
  for (const int64_t most : {opened_->mask.size(1), int64_t{2}, int64_t{1}}) {
    const auto [u, weight] = encode(W, cold, views_left(opened_->mask, most));
    result.values.push_back(precision_of(*opened_, model_->score().all_pairs(u, warm), kFirst));
    if (!weights.defined()) weights = weight;
  }
  const Tensor mask = opened_->mask.slice(0, W);
  if (weights.defined()) {
    const Tensor all = mask.all(1).nonzero().squeeze(1);  // cold things with every view
    const Tensor mean = weights.index_select(0, all).to(at::kDouble).mean(0);
    for (size_t k = 0; k < opened_->names.size(); ++k) {
      result.details["weight"][opened_->names[k]] = mean[static_cast<int64_t>(k)].item<double>();
    }
  }
  if (!opened_->clean.defined()) return result;
  const Tensor clean = opened_->clean.slice(0, W).logical_and(mask), noisy = mask.logical_and(clean.logical_not());
  const Tensor both = clean.any(1).logical_and(noisy.any(1)).nonzero().squeeze(1);
  const bool known = weights.defined() && both.size(0) > 0;
  result.values.push_back(known ? (weights * clean).sum(1).index_select(0, both).mean().item<double>()
                                : std::numeric_limits<double>::quiet_NaN());
  return result;
}

std::vector<Baseline> Views::baselines(int64_t) {
  double chance = 0;
  for (int64_t i = opened_->warm; i < opened_->count(); ++i) {
    chance += static_cast<double>(opened_->members[static_cast<size_t>(opened_->group[static_cast<size_t>(i)])].size());
  }
  chance /= static_cast<double>(opened_->cold() * opened_->warm);
  std::vector<Baseline> list = {{"chance", "any order of the warm things", 0, {{"precision", chance}}}};
  if (!opened_->input.rows.defined()) return list;
  const double found = precision_of(*opened_, shared_words(*opened_), kFirst);
  list.push_back({"shared words",
                  "cosine of the words that two entities share in any view, rare ones first",
                  0,
                  {{"precision", found}}});
  return list;
}

Account Views::account(const Evaluation& evaluation, const AccountOptions& options) {
  Account account = Task::account(evaluation, options);
  const nlohmann::json& details = evaluation.details;
  account.text = fmt::format("{} cold things look for related ones among {} warm ones; {} parameters\n",
                             details.at("cold").get<int64_t>(), details.at("warm").get<int64_t>(),
                             details.at("parameters").get<int64_t>());
  if (!details.contains("weight")) return account;
  account.text += "mean weight of views where all are present:";
  for (const auto& [name, weight] : details.at("weight").items()) {
    account.text += fmt::format("  {} {:.3f}", name, number_of(weight));
  }
  account.text += "\n";
  return account;
}

int64_t Views::infer(int64_t position) {
  const int64_t count = std::min(kThingsAtOnce, opened_->cold());
  encode(opened_->warm + position % (opened_->cold() / count) * count, count, opened_->mask);
  return count;
}

nlohmann::json Views::data_facts() const {
  return {{"warm things", opened_->warm}, {"cold things", opened_->cold()}, {"groups", opened_->members.size()}};
}

}  // namespace loci
