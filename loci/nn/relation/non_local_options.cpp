#include "loci/nn/relation/non_local_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>

#include "loci/base/check.h"

// Legend: C channels, I inner width, T frames, H height, W width of a map.

namespace loci {
namespace {

[[noreturn]] void refuse_non_local(const std::string& expected, const std::string& got) {
  fail(ExitCode::usage, "NonLocal", expected, got);
}

int64_t volume(const MapExtents& extents) {
  int64_t product = 1;
  for (const int64_t extent : extents) product = checked_product("NonLocal", "positions", product, extent);
  return product;
}

// The last entries of extents from the entries of a map's own dimensions.
MapExtents aligned(const std::vector<int64_t>& own) {
  MapExtents extents = {1, 1, 1};
  std::copy(own.begin(), own.end(), extents.end() - std::ssize(own));
  return extents;
}

}  // namespace

void NonLocalOptions::fields(ConfigFields& f) {
  f.field("inner", inner, "channels of the embeddings; 0: half of the map's", {.minimum = 0});
  f.choice("form", form, "how a query and a key make a weight",
           {{"gaussian", PairForm::gaussian},
            {"embedded", PairForm::embedded},
            {"dot", PairForm::dot},
            {"concat", PairForm::concat}});
  f.when(form == PairForm::embedded, "form is \"embedded\"", [&] {
    f.choice("scale", scale, "of the logits: none, or 1 / sqrt(inner)",
             {{"none", PairScale::none}, {"rsqrt", PairScale::rsqrt}});
  });
  f.choice("pool", pool, "max pooling of keys and values: none, before or after their embeddings",
           {{"none", PairPool::none}, {"before", PairPool::before}, {"after", PairPool::after}});
  f.when(pool != PairPool::none, "pool is not \"none\"", [&] {
    f.field("pool_kernel", pool_kernel, "edges by dimension; empty: 2 in space, 1 in time", {.minimum = 1});
  });
  f.choice("domain", domain, "the keys that a query sees",
           {{"spacetime", PairDomain::spacetime},
            {"space", PairDomain::space},
            {"time", PairDomain::time},
            {"groups", PairDomain::groups},
            {"window", PairDomain::window}});
  f.when(domain == PairDomain::groups, "domain is \"groups\"",
         [&] { f.field("group", group, "consecutive frames that see each other", {.minimum = 1}); });
  f.when(domain == PairDomain::window, "domain is \"window\"",
         [&] { f.field("window", window, "edges by dimension", {.minimum = 1}); });
  f.choice(
      "norm", norm, "after the output map",
      {{"batch", PairNorm::batch}, {"frozen", PairNorm::frozen}, {"layer", PairNorm::layer}, {"none", PairNorm::none}});
  f.field("output_bias", output_bias, "a bias of the output map");
  f.choice("start", start, "of weights: N(0, 2 / inputs), or N(0, 0.01^2)",
           {{"he", PairStart::he}, {"small", PairStart::small}});
}

NonLocalOptions NonLocalOptions::paper(int64_t channels, int64_t dimensions) {
  NonLocalOptions options;
  options.channels = channels;
  options.dimensions = dimensions;
  options.scale = PairScale::none;
  options.pool = PairPool::after;
  return options;
}

NonLocalOptions NonLocalOptions::release(int64_t channels, int64_t dimensions) {
  NonLocalOptions options;
  options.channels = channels;
  options.dimensions = dimensions;
  options.start = PairStart::small;
  return options;
}

void NonLocalOptions::check() const {
  const auto at_least_1 = [](const char* what, int64_t value) {
    if (value < 1) refuse_non_local(fmt::format("{} must be at least 1", what), std::to_string(value));
  };
  const auto edges = [&](const char* what, const std::vector<int64_t>& list) {
    if (std::ssize(list) != dimensions ||
        std::any_of(list.begin(), list.end(), [](int64_t edge) { return edge < 1; })) {
      refuse_non_local(fmt::format("{} must be {} edges of at least 1", what, dimensions),
                       fmt::format("[{}]", fmt::join(list, ", ")));
    }
  };
  at_least_1("channels", channels);
  if (dimensions < 1 || dimensions > 3) {
    refuse_non_local("dimensions must be within 1 .. 3", std::to_string(dimensions));
  }
  if (inner < 0) refuse_non_local("inner must be at least 0", std::to_string(inner));
  if (pool != PairPool::none && !pool_kernel.empty()) edges("pool_kernel", pool_kernel);
  if (domain == PairDomain::window) edges("window", window);
  if (domain == PairDomain::groups) at_least_1("group", group);
  const bool of_frames = domain == PairDomain::space || domain == PairDomain::time || domain == PairDomain::groups;
  if (of_frames && dimensions != 3) {
    refuse_non_local("domains space, time and groups need maps with frames (dimensions 3)", std::to_string(dimensions));
  }
  const MapExtents pooled = kernel();
  if (domain == PairDomain::time && (pooled[1] > 1 || pooled[2] > 1)) {
    refuse_non_local("domain time must not pool in space: keys would leave the query's place",
                     fmt::format("pool_kernel {}x{}x{}", pooled[0], pooled[1], pooled[2]));
  }
}

int64_t NonLocalOptions::inner_width() const {
  return inner > 0 ? inner : std::max<int64_t>(1, channels / 2);
}

MapExtents NonLocalOptions::kernel() const {
  if (pool == PairPool::none) return {1, 1, 1};
  if (!pool_kernel.empty()) return aligned(pool_kernel);
  return dimensions == 1 ? MapExtents{1, 1, 2} : MapExtents{1, 2, 2};
}

std::pair<MapExtents, MapExtents> NonLocalOptions::windows(const MapExtents& map) const {
  static constexpr const char* kNames[] = {"frames", "height", "width"};
  MapExtents own = map;
  if (domain == PairDomain::space) own[0] = 1;
  if (domain == PairDomain::time) own = {map[0], 1, 1};
  if (domain == PairDomain::groups) own[0] = group;
  if (domain == PairDomain::window) own = aligned(window);
  const MapExtents pooled = kernel(), keys_of_map = pooled_extents(map, pooled);
  MapExtents keys = {};
  for (size_t i = 0; i < 3; ++i) {
    if (map[i] < pooled[i]) {
      refuse_non_local(fmt::format("{} must be at least the pooling kernel's {}", kNames[i], pooled[i]),
                       std::to_string(map[i]));
    }
    if (own[i] == map[i]) {
      keys[i] = keys_of_map[i];
      continue;
    }
    if (map[i] % own[i] != 0) {
      refuse_non_local(fmt::format("{} must be a multiple of the window's {}", kNames[i], own[i]),
                       std::to_string(map[i]));
    }
    if (own[i] % pooled[i] != 0) {
      refuse_non_local(
          fmt::format("{} of a window must be a multiple of the pooling kernel's {}", kNames[i], pooled[i]),
          std::to_string(own[i]));
    }
    keys[i] = own[i] / pooled[i];
  }
  return {own, keys};
}

std::vector<int64_t> non_local_places(int64_t n, int64_t count) {
  if (count == 1) return {std::max<int64_t>(0, n - 2)};
  std::vector<int64_t> places;
  for (int64_t i = 1; i <= count; ++i) places.push_back(i * (n / count) - 1);
  return places;
}

MapExtents pooled_extents(const MapExtents& map, const MapExtents& kernel) {
  return {map[0] / kernel[0], map[1] / kernel[1], map[2] / kernel[2]};
}

int64_t count_non_local_parameters(const NonLocalOptions& o) {
  o.check();
  constexpr const char* who = "NonLocal";
  const int64_t C = o.channels, I = o.inner_width();
  const int64_t matrix = checked_product(who, "a weight", C, I),
                embedding = checked_sum(who, "an embedding", matrix, I);
  int64_t total = checked_product(who, "embeddings", embedding, o.has_embeddings() ? 3 : 1);
  total = checked_sum(who, "weights", total, matrix);
  if (o.form == PairForm::concat) total = checked_sum(who, "weights", total, 2 * I);
  if (o.output_bias) total += C;
  if (o.norm == PairNorm::batch || o.norm == PairNorm::frozen) total += 2 * C;
  return total;
}

int64_t non_local_multiply_adds(const NonLocalOptions& o, const MapExtents& map) {
  o.check();
  constexpr const char* who = "NonLocal";
  const auto product = [&](int64_t a, int64_t b) { return checked_product(who, "multiply-adds", a, b); };
  const auto [own, keys] = o.windows(map);
  const int64_t N = volume(map), C = o.channels, I = o.inner_width();
  const int64_t M = volume(keys), M_all = product(N / volume(own), M);
  const int64_t embedded = o.pool == PairPool::before ? M_all : N;  // positions that phi and g are taken of
  const int64_t matrix = product(C, I);
  int64_t total = product(product(N, matrix), o.has_embeddings() ? 2 : 1);  // theta, W_z
  total = checked_sum(who, "multiply-adds", total, product(product(embedded, matrix), o.has_embeddings() ? 2 : 1));
  const int64_t weight = o.form == PairForm::gaussian ? C : o.form == PairForm::concat ? 2 * I : I;
  return checked_sum(who, "multiply-adds", total, product(product(N, M), weight + I));
}

}  // namespace loci
