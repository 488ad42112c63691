// Things in several views, some of which are missing, and which of them are related: drawn (view_items.h) or read
// (entity_views.h).
//
// Legend: N things, W warm ones, V views, X width of a view, L words of a view.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/data/procedural/view_items.h"
#include "loci/data/text/entity_views.h"
#include "loci/models/view_net.h"
#include "loci/train/task.h"

namespace loci {

enum class ViewDataKind { items, words };

// [data]
struct ViewTaskData {
  ViewDataKind kind = ViewDataKind::items;
  ViewItemsOptions items;
  EntityViewsOptions words;
  int64_t negatives = 4;      // unrelated things for each related pair of a step
  double view_dropout = 0.1;  // share of the views that a step leaves out
  void fields(ConfigFields& f);
  void check() const;
  // Those that decide what is read of a folder, as TOML.
  std::string settings() const;
};

struct OpenedViews : OpenedData {
  std::vector<std::string> names;             // of the views
  std::vector<int64_t> group;                 // of each thing; warm ones come first
  std::vector<std::vector<int64_t>> members;  // of each group, the warm ones
  int64_t warm = 0;                           // W
  at::Tensor mask;                            // [N, V] bool: present
  at::Tensor clean;                           // [N, V] bool, where it is known which views are
  ViewInput input;                            // of all things
  std::string key;

  int64_t count() const { return std::ssize(group); }
  int64_t cold() const { return count() - warm; }
  // Of the things `index` [B] int64.
  ViewInput input_of(const at::Tensor& index) const;
};

// Drawn ones are of the run's seed. `rows` of the table that words are hashed to.
std::shared_ptr<const OpenedViews> open_views(const ViewTaskData& options, int64_t rows, const TaskInputs& inputs);

// mask [N, V] with at most `most` present views a thing, chosen by counter; the same ones for every run.
at::Tensor views_left(const at::Tensor& mask, int64_t most);

// The mean share of the `count` first of each cold thing's warm things that are of its group. score [cold, W].
double precision_of(const OpenedViews& data, const at::Tensor& score, int64_t count);

// [cold, W]: cosine of the words that two things share in any view, each word at log(W / things that have it).
at::Tensor shared_words(const OpenedViews& data);

}  // namespace loci
