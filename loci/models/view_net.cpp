// Legend: B batch, V views, X width of a view's input, L rows of a bag, D `width`, H `hidden`.
#include "loci/models/view_net.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <cmath>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"
#include "loci/nn/memory/memory_formula.h"

namespace loci {

using at::Tensor;

void ViewNetOptions::fields(ConfigFields& f) {
  f.choice<ViewSum>("combine", combine, "how the views of a thing become one vector",
                    {{"attention", ViewSum::attention},
                     {"mean", ViewSum::mean},
                     {"concatenation", ViewSum::concatenation},
                     {"single", ViewSum::single}});
  f.when(combine == ViewSum::single, "model.combine is \"single\"",
         [&] { f.field("view", view, "the only view that is used", {.minimum = 0, .maximum = 63}); });
  f.field("width", width, "numbers of a thing's vector", {.minimum = 1, .maximum = 4096});
  f.field("hidden", hidden, "hidden width of each view's network", {.minimum = 1, .maximum = 1 << 16});
  f.when(combine == ViewSum::attention, "model.combine is \"attention\"", [&] {
    f.field("attention_hidden", attention_hidden, "hidden width of the views' scores",
            {.minimum = 1, .maximum = 1 << 16});
  });
  f.when(bags, "data.kind is \"words\"", [&] {
    f.field("rows", rows, "rows that words are hashed to", {.minimum = 2, .maximum = int64_t{1} << 30});
    f.field("row_width", row_width, "numbers of a row", {.minimum = 1, .maximum = 4096});
  });
}

void ViewNetOptions::check() const {
  if (combine != ViewSum::single || view < views) return;
  fail(ExitCode::usage, "config", fmt::format("model.view must be less than the {} views", views),
       fmt::to_string(view));
}

int64_t ViewNetOptions::parameters() const {
  const int64_t D = width, H = hidden, A = attention_hidden;
  int64_t count = views * (H * (input_width() + 1) + D * (H + 1)) + 2;
  if (combine == ViewSum::concatenation) return count + H * (views * (D + 1) + 1) + D * (H + 1);
  count += D;
  return combine == ViewSum::attention ? count + A * (D + 2) : count;
}

int64_t ViewNetOptions::multiply_adds() const {
  const int64_t D = width, H = hidden;
  int64_t count = views * H * (input_width() + D);
  if (combine == ViewSum::concatenation) count += H * (views * (D + 1) + D);
  if (combine == ViewSum::attention) count += views * attention_hidden * (D + 1);
  return count;
}

double ViewNetOptions::kept_numbers() const {
  const double of_view = static_cast<double>(input_width() + 2 * hidden + 4 * width + 2 * attention_hidden);
  return static_cast<double>(views) * of_view + static_cast<double>(2 * hidden + 4 * width);
}

ViewNet::ViewNet(const ViewNetOptions& options, uint64_t seed, const TableMaker& tables)
    : Module("ViewNet"), options_(options) {
  options.check();
  const int64_t V = options.views, D = options.width, H = options.hidden;
  if (options.bags) {
    table_ = tables({.name = "words", .rows = options.rows, .width = options.row_width, .start_std = 1, .seed = seed});
    use_ = table_->register_use();
  }
  const auto mlp = [&](const std::string& name, int64_t inputs) {
    const std::vector<int64_t> widths = {inputs, H, D};
    return register_module(name, std::make_shared<MlpQueryNet>(name, widths, /*train_last_bias=*/true, seed));
  };
  for (int64_t k = 0; k < V; ++k) views_.push_back(mlp(fmt::format("view{}", k), options.input_width()));
  switch (options.combine) {
    case ViewSum::attention:
      attention_ =
          register_module("attention", std::make_shared<ViewAttention>("attention", D, options.attention_hidden, seed));
      break;
    case ViewSum::concatenation:
      concatenation_ = mlp("concatenation", V * (D + 1));
      break;
    case ViewSum::mean:
    case ViewSum::single:
      default_view_ = register_parameter(
          "default_view", normal_start(seed, "default_view", {D}, 1 / std::sqrt(static_cast<double>(D))));
  }
  score_ = register_module("score", std::make_shared<PairScore>());
}

std::pair<Tensor, Tensor> ViewNet::encode(const ViewInput& input, const Tensor& mask) const {
  const int64_t V = options_.views, B = mask.size(0);
  Tensor x = input.values;
  if (table_) {
    const int64_t L = input.rows.size(2);
    x = table_->read(input.rows.view({B * V, L}), input.weight.view({B * V, L}), use_).view({B, V, table_->width()});
  }
  TORCH_CHECK(
      x.dim() == 3 && x.size(1) == V && x.size(2) == options_.input_width() && mask.sizes() == x.sizes().slice(0, 2),
      "ViewNet: views must be [B, ", V, ", ", options_.input_width(), "] and mask [B, ", V, "], got ", x.sizes(),
      " and ", mask.sizes());
  std::vector<Tensor> views;
  for (int64_t k = 0; k < V; ++k) views.push_back(views_[static_cast<size_t>(k)]->forward(x.select(1, k)));
  const Tensor drawn = at::stack(views, 1);  // [B, V, D]
  if (attention_) return attention_->forward_with_weights(drawn, mask);
  const Tensor u = at::where(mask.unsqueeze(-1), drawn, 0);
  if (concatenation_) {
    const Tensor all = at::cat({u.flatten(1), mask.to(u.scalar_type())}, 1);  // [B, V (D + 1)]
    return {unit_vectors(concatenation_->forward(all)), Tensor()};
  }
  Tensor seen = mask;
  if (options_.combine == ViewSum::single) {
    seen = at::zeros_like(mask);
    seen.select(1, options_.view).copy_(mask.select(1, options_.view));
  }
  const Tensor weight = seen.to(u.scalar_type()) / seen.sum(1, /*keepdim=*/true).clamp_min(1);  // [B, V]
  return {unit_sum(u, weight, seen, default_view_), weight};
}

}  // namespace loci
