// Legend: N things, W warm ones, V views, X width of a view, L words of a view.
#include "loci/tasks/view_data.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <unordered_map>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/base/random.h"

namespace loci {
namespace {

using at::Tensor;

void list_members(OpenedViews& data, int64_t groups) {
  data.members.resize(static_cast<size_t>(groups));
  for (int64_t i = 0; i < data.warm; ++i)
    data.members[static_cast<size_t>(data.group[static_cast<size_t>(i)])].push_back(i);
}

std::shared_ptr<const OpenedViews> drawn_views(const ViewItemsOptions& options, uint64_t seed) {
  const ViewItems items(options, seed);
  const int64_t N = options.items(), V = ViewItemsOptions::kViews;
  auto data = std::make_shared<OpenedViews>();
  for (int64_t k = 0; k < V; ++k) data->names.push_back(fmt::format("view {}", k));
  data->warm = options.warm;
  data->mask = at::zeros({N, V}, at::kBool);
  data->clean = at::zeros({N, V}, at::kBool);
  data->input.values = at::zeros({N, V, options.width}, at::kFloat);
  bool* mask = data->mask.mutable_data_ptr<bool>();
  bool* clean = data->clean.mutable_data_ptr<bool>();
  float* values = data->input.values.mutable_data_ptr<float>();
  for (int64_t i = 0; i < N; ++i) {
    data->group.push_back(items.cluster(i));
    for (int64_t k = 0; k < V; ++k, values += options.width) {
      *mask++ = items.present(i, k);
      *clean++ = items.clean(i, k);
      items.draw(i, k, values);
    }
  }
  list_members(*data, options.clusters);
  data->key = fmt::format("{} items in {} clusters of seed {}", N, options.clusters, seed);
  return data;
}

std::shared_ptr<const OpenedViews> read_views(const EntityViewsOptions& options, int64_t rows,
                                              const std::filesystem::path& folder) {
  const EntityViews read = read_entity_views(folder, options);
  const int64_t N = std::ssize(read.entities), V = EntityViews::kViews, L = options.words;
  auto data = std::make_shared<OpenedViews>();
  data->names = {"name", "gloss", "neighbours"};
  data->warm = read.warm;
  data->mask = at::zeros({N, V}, at::kBool);
  data->input.rows = at::zeros({N, V, L}, at::kLong);
  data->input.weight = at::zeros({N, V, L}, at::kFloat);
  bool* mask = data->mask.mutable_data_ptr<bool>();
  auto* row = data->input.rows.mutable_data_ptr<int64_t>();
  auto* weight = data->input.weight.mutable_data_ptr<float>();
  for (const EntityViews::Entity& entity : read.entities) {
    data->group.push_back(entity.group);
    for (int64_t k = 0; k < V; ++k, row += L, weight += L) {
      const std::vector<int64_t> words =
          hashed_words(entity.views.at(static_cast<size_t>(k)), /*parts=*/k == 0, rows, L);
      *mask++ = !words.empty();
      std::copy(words.begin(), words.end(), row);
      // So that a sum of independent rows is as large as one.
      std::fill_n(weight, words.size(), static_cast<float>(1 / std::sqrt(std::max<double>(1, std::ssize(words)))));
    }
  }
  list_members(*data, std::ssize(read.groups));
  for (size_t g = 0; g < data->members.size(); ++g) {
    if (data->members[g].size() >= 2) continue;
    fail(ExitCode::input, folder.string(), "each group must keep two entities for training (data.least, cold_share)",
         fmt::format("{} of \"{}\"", data->members[g].size(), read.groups[g]));
  }
  data->key = read.inventory.key();
  return data;
}

}  // namespace

void ViewTaskData::fields(ConfigFields& f) {
  f.choice<ViewDataKind>("kind", kind, "drawn items, or entities of a folder by their words",
                         {{"items", ViewDataKind::items}, {"words", ViewDataKind::words}});
  f.when(kind == ViewDataKind::items, "data.kind is \"items\"", [&] { items.fields(f); });
  f.when(kind == ViewDataKind::words, "data.kind is \"words\"", [&] { words.fields(f); });
  f.field("negatives", negatives, "unrelated things for each related pair of a step", {.minimum = 1, .maximum = 1024});
  f.field("view_dropout", view_dropout, "share of the views that a step leaves out", {.minimum = 0, .maximum = 1});
}

void ViewTaskData::check() const {
  if (kind == ViewDataKind::items) items.check();
  if (kind == ViewDataKind::words) words.check();
}

std::string ViewTaskData::settings() const {
  return kind == ViewDataKind::words ? Config::write(words) : "";
}

ViewInput OpenedViews::input_of(const Tensor& index) const {
  if (input.values.defined()) return {.values = input.values.index_select(0, index)};
  return {.rows = input.rows.index_select(0, index), .weight = input.weight.index_select(0, index)};
}

std::shared_ptr<const OpenedViews> open_views(const ViewTaskData& options, int64_t rows, const TaskInputs& inputs) {
  if (options.kind == ViewDataKind::items) return drawn_views(options.items, inputs.seed);
  if (auto known = std::dynamic_pointer_cast<const OpenedViews>(inputs.opened)) return known;
  return read_views(options.words, rows, inputs.data);
}

Tensor views_left(const Tensor& mask, int64_t most) {
  const CounterRandom random(0, "views.left");
  const int64_t N = mask.size(0), V = mask.size(1);
  Tensor left = at::zeros_like(mask);
  for (int64_t i = 0; i < N; ++i) {
    const bool* in = mask.const_data_ptr<bool>() + i * V;
    std::vector<std::pair<uint64_t, int64_t>> present;
    for (int64_t k = 0; k < V; ++k) {
      if (in[k]) present.emplace_back(random.bits(static_cast<uint64_t>(i * V + k)), k);
    }
    std::sort(present.begin(), present.end());
    for (int64_t k = 0; k < std::min<int64_t>(most, std::ssize(present)); ++k) {
      left.mutable_data_ptr<bool>()[i * V + present[static_cast<size_t>(k)].second] = true;
    }
  }
  return left;
}

double precision_of(const OpenedViews& data, const Tensor& score, int64_t count) {
  const int64_t first = std::min(count, data.warm);
  const Tensor best = std::get<1>(score.topk(first, 1)).contiguous();  // [cold, first]
  const auto* found = best.const_data_ptr<int64_t>();
  int64_t right = 0;
  for (int64_t i = 0; i < data.cold(); ++i) {
    const int64_t group = data.group[static_cast<size_t>(data.warm + i)];
    for (int64_t j = 0; j < first; ++j) right += data.group[static_cast<size_t>(*found++)] == group;
  }
  return static_cast<double>(right) / static_cast<double>(data.cold() * first);
}

Tensor shared_words(const OpenedViews& data) {
  const int64_t W = data.warm, of_thing = data.input.rows.numel() / data.count();
  const auto words_of_thing = [&](int64_t i) {
    const auto* rows = data.input.rows.const_data_ptr<int64_t>() + i * of_thing;
    std::set<int64_t> words(rows, rows + of_thing);
    words.erase(0);
    return words;
  };
  std::unordered_map<int64_t, std::vector<int64_t>> having;  // warm things of each word
  for (int64_t i = 0; i < W; ++i) {
    for (const int64_t word : words_of_thing(i)) having[word].push_back(i);
  }
  const auto square = [&](const std::vector<int64_t>& things) {
    return std::pow(std::log(static_cast<double>(W) / static_cast<double>(things.size())), 2);
  };
  std::vector<double> length(static_cast<size_t>(W), 1e-12);  // squared
  for (const auto& [word, things] : having) {
    for (const int64_t i : things) length[static_cast<size_t>(i)] += square(things);
  }
  Tensor score = at::zeros({data.cold(), W}, at::kFloat);
  for (int64_t i = 0; i < data.cold(); ++i) {
    float* out = score.mutable_data_ptr<float>() + i * W;
    for (const int64_t word : words_of_thing(W + i)) {
      const auto found = having.find(word);
      if (found == having.end()) continue;
      for (const int64_t j : found->second) out[j] += static_cast<float>(square(found->second));
    }
    for (int64_t j = 0; j < W; ++j) out[j] /= static_cast<float>(std::sqrt(length[static_cast<size_t>(j)]));
  }
  return score;
}

}  // namespace loci
