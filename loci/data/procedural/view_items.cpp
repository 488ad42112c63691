// Legend: V views, L `latent`, X `width` of a view.
#include "loci/data/procedural/view_items.h"

#include <algorithm>
#include <cmath>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr double kMapGain = 2;  // far enough into the bend of tanh that no linear map undoes a view

std::vector<double> normal_numbers(uint64_t seed, std::string_view stream, int64_t count, double deviation) {
  const CounterRandom random(seed, stream);
  std::vector<double> numbers(static_cast<size_t>(count));
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = deviation * random.normal(i);
  return numbers;
}

uint64_t view_place(int64_t item, int64_t view) {
  return static_cast<uint64_t>(item * ViewItemsOptions::kViews + view);
}

}  // namespace

void ViewItemsOptions::fields(ConfigFields& f) {
  f.field("clusters", clusters, "items of the same cluster are related", {.minimum = 2, .maximum = 1 << 16});
  f.field("warm", warm, "items for training", {.minimum = 1, .maximum = 1 << 22});
  f.field("cold", cold, "items that are new to the network, of the evaluation", {.minimum = 1, .maximum = 1 << 22});
  f.field("latent", latent, "numbers behind the views of an item", {.minimum = 1, .maximum = 1024});
  f.field("width", width, "numbers of a view", {.minimum = 1, .maximum = 1024});
  f.field("spread", spread, "deviation of items around their cluster's centre, which is N(0, 1)",
          {.minimum = 0, .maximum = 100});
  f.field("clean_noise", clean_noise, "deviation of the noise of clean views", {.minimum = 0, .maximum = 1000});
  f.field("noisy_noise", noisy_noise, "deviation of the noise of noisy views", {.minimum = 0, .maximum = 1000});
  f.field("noisy_share", noisy_share, "share of the views that are noisy", {.minimum = 0, .maximum = 1});
  f.field("missing_share", missing_share, "share of the views that are missing", {.minimum = 0, .maximum = 1});
  f.field("hide_noisy", hide_noisy, "noisy views are missing too");
}

void ViewItemsOptions::check() const {
  if (warm >= 2 * clusters) return;
  fail(ExitCode::usage, "config", fmt::format("data.warm must be at least 2 * data.clusters = {}", 2 * clusters),
       fmt::to_string(warm));
}

ViewItems::ViewItems(const ViewItemsOptions& options, uint64_t seed)
    : options_(options),
      latent_(seed, "view_items.latent"),
      noise_(seed, "view_items.noise"),
      noisy_(seed, "view_items.noisy"),
      missing_(seed, "view_items.missing") {
  options.check();
  const int64_t L = options.latent;
  centres_ = normal_numbers(seed, "view_items.centres", options.clusters * L, 1);
  maps_ = normal_numbers(seed, "view_items.maps", ViewItemsOptions::kViews * options.width * L,
                         kMapGain / std::sqrt(static_cast<double>(L)));
}

bool ViewItems::clean(int64_t item, int64_t view) const {
  return noisy_.uniform(view_place(item, view)) >= options_.noisy_share;
}

bool ViewItems::present(int64_t item, int64_t view) const {
  if (options_.hide_noisy && !clean(item, view)) return false;
  return missing_.uniform(view_place(item, view)) >= options_.missing_share;
}

void ViewItems::draw(int64_t item, int64_t view, float* out) const {
  const int64_t L = options_.latent, X = options_.width;
  if (!present(item, view)) {
    std::fill_n(out, X, 0.0F);
    return;
  }
  std::vector<double> z(static_cast<size_t>(L));
  for (int64_t j = 0; j < L; ++j) {
    z[static_cast<size_t>(j)] = centres_[static_cast<size_t>(cluster(item) * L + j)] +
                                options_.spread * latent_.normal(static_cast<uint64_t>(item * L + j));
  }
  const double deviation = clean(item, view) ? options_.clean_noise : options_.noisy_noise;
  const double* map = maps_.data() + view * X * L;
  for (int64_t x = 0; x < X; ++x, map += L) {
    double sum = 0;
    for (int64_t j = 0; j < L; ++j) sum += map[j] * z[static_cast<size_t>(j)];
    const uint64_t place = view_place(item, view) * static_cast<uint64_t>(X) + static_cast<uint64_t>(x);
    out[x] = static_cast<float>(std::tanh(sum) + deviation * noise_.normal(place));
  }
}

}  // namespace loci
