// Legend: B batch, C channels, T positions of all maps, H heads, K top_k, w half a key's width, D width of a row.
#include "loci/nn/memory/memory_map.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <tuple>

#include "loci/base/check.h"
#include "loci/nn/memory/calibrate.h"
#include "loci/nn/memory/convolution_query_net.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/local_table.h"
#include "loci/table/usage.h"
#include "tests/allocations.h"
#include "tests/op_harness.h"
#include "tests/row_gradient.h"
#include "tests/temporary_folder.h"

namespace loci::memory_map_test {
namespace {

using at::Tensor;

constexpr int64_t kChannels = 5, kRowWidth = 7, kRows = 30;

struct Map {
  std::shared_ptr<LocalTable> table;
  std::shared_ptr<MemoryMap> map;
};

Map make_map(int64_t dimensions, const std::function<void(MemoryMapOptions&)>& change = {},
             at::ScalarType type = at::kDouble) {
  MemoryMapOptions options;
  options.width = kChannels;
  options.dimensions = dimensions;
  options.heads = 2;
  options.top_k = 4;
  options.key_width = 8;
  if (change) change(options);
  auto table = std::make_shared<LocalTable>("values", kRows, kRowWidth, LocalTableOptions{.dtype = type});
  table->store().initialise_normal(1, 1);
  auto map = std::make_shared<MemoryMap>("map", options, table, 7);
  map->to(type);
  const torch::NoGradGuard guard;
  torch::manual_seed(5);
  for (auto& parameter : map->parameters()) parameter.add_(torch::randn_like(parameter), 0.3);
  return {table, map};
}

// [B, C, ...] with unequal edges.
std::vector<int64_t> map_sizes(int64_t dimensions, int64_t channels = kChannels) {
  const std::vector<int64_t> edges = {3, 5, 2};
  std::vector<int64_t> sizes = {2, channels};
  sizes.insert(sizes.end(), edges.begin(), edges.begin() + dimensions);
  return sizes;
}

Tensor channels_last(const Tensor& x) {
  return x.movedim(1, -1).contiguous().movedim(-1, 1);
}

void whole_numbers(const Map& made) {
  const torch::NoGradGuard guard;
  for (auto& parameter : made.map->parameters()) parameter.copy_(torch::randint(-1, 2, parameter.sizes()));
  made.table->store().values().copy_(torch::randint(-3, 4, {kRows, kRowWidth}));
}

// The channels of x at every position, one after another in the order of the loops: frame, row, column.
template <class Visit>
void each_position(const Tensor& x, const Visit& visit) {
  std::vector<int64_t> edges = {1, 1, 1};
  for (int64_t i = 2; i < x.dim(); ++i) edges[static_cast<size_t>(3 - x.dim() + i)] = x.size(i);
  int64_t token = 0;
  for (int64_t b = 0; b < x.size(0); ++b) {
    for (int64_t t = 0; t < edges[0]; ++t) {
      for (int64_t row = 0; row < edges[1]; ++row) {
        for (int64_t column = 0; column < edges[2]; ++column) {
          Tensor at = x[b];
          const int64_t place[] = {t, row, column};
          for (int64_t i = 5 - x.dim(); i < 3; ++i) at = at.select(1, place[i]);
          visit(token++, at);
        }
      }
    }
  }
}

struct Best {
  std::vector<int64_t> row;
  std::vector<double> score;
};

// The best of all rows, each scored as a whole; of equal scores the lower row.
Best best_of_all_rows(const ProductKeyMemory& m, const Tensor& query, int64_t head) {
  const auto scores = [&](const Tensor& keys, int64_t half) {
    return at::mv(keys[head], query[head][half]).to(at::kDouble).contiguous();
  };
  const Tensor score1 = scores(m.keys1, 0), score2 = scores(m.keys2, 1);
  const int64_t n2 = score2.size(0);
  std::vector<double> all;
  for (int64_t r = 0; r < kRows; ++r) {
    all.push_back(score1.const_data_ptr<double>()[r / n2] + score2.const_data_ptr<double>()[r % n2]);
  }
  std::vector<int64_t> order(kRows);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return all[a] > all[b]; });
  order.resize(static_cast<size_t>(m.options().top_k));
  Best best{order, {}};
  for (const int64_t r : order) best.score.push_back(all[r]);
  return best;
}

// Whole numbers make sums exact and ties frequent; `exact` compares bits.
void expect_brute_force(const Map& made, const Tensor& x, bool exact) {
  const torch::NoGradGuard guard;
  made.map->eval();
  const ProductKeyMemory& m = *made.map->memory;
  const auto& net = dynamic_cast<const MlpQueryNet&>(*m.query_net);
  const auto& o = made.map->options();
  const MemoryReads reads = made.map->read_with_indices(x);
  const Tensor y = made.map->forward(x), values = made.table->store().values();
  std::vector<Tensor> out;
  each_position(y, [&](int64_t, const Tensor& at) { out.push_back(at); });
  int64_t ties = 0;
  each_position(x, [&](int64_t token, const Tensor& at) {
    Tensor query = (at::mv(net.weight[0], at) + net.bias[0]).view({o.heads, 2, o.key_width / 2});
    if (o.query_norm == QueryNorm::batch) {
      query = (query - m.norm.running_mean) / (m.norm.running_variance + 1e-5).sqrt() * m.norm.gain + m.norm.bias;
    }
    Tensor sum = at::zeros({kRowWidth}, values.options());
    for (int64_t h = 0; h < o.heads; ++h) {
      const Best best = best_of_all_rows(m, query, h);
      EXPECT_TRUE(torch::equal(reads.index[token][h], at::tensor(best.row, at::kLong)));
      const Tensor score = at::tensor(best.score, values.options());
      if (exact) {
        EXPECT_TRUE(torch::equal(reads.score[token][h], score));
      }
      sum += at::mv(values.index_select(0, at::tensor(best.row, at::kLong)).t(), at::softmax(score, 0));
      for (size_t i = 1; i < best.score.size(); ++i) ties += best.score[i] == best.score[i - 1];
    }
    EXPECT_TRUE(torch::allclose(out[static_cast<size_t>(token)], sum, 1e-5, 1e-5));
  });
  EXPECT_EQ(static_cast<int64_t>(out.size()), reads.index.size(0));
  EXPECT_EQ(ties > 0, exact);
}

TEST(MemoryMap, ReadsTheRowsOfBruteForceOverAllAtEveryPosition) {
  for (const int64_t dimensions : {0, 1, 2, 3}) {
    SCOPED_TRACE(dimensions);
    const Map tied = make_map(dimensions, [](auto& o) { o.query_norm = QueryNorm::none; }, at::kFloat);
    whole_numbers(tied);
    const Tensor whole = torch::randint(-2, 3, map_sizes(dimensions)).to(at::kFloat);
    expect_brute_force(tied, whole, /*exact=*/true);
    expect_brute_force(tied, channels_last(whole), /*exact=*/true);

    const Map drawn = make_map(dimensions);
    drawn.map->forward(torch::randn(map_sizes(dimensions), at::kDouble));  // moves the statistics
    expect_brute_force(drawn, torch::randn(map_sizes(dimensions), at::kDouble), /*exact=*/false);
  }
}

struct Trained {
  Tensor y, grad_x, row_gradient;
  std::vector<Tensor> gradients;
};

Trained trained(const Map& made, const Tensor& given) {
  const Tensor x = given.detach().requires_grad_();
  const Tensor y = made.map->forward(x);
  torch::manual_seed(8);
  const Tensor direction = torch::randn(y.sizes(), at::kFloat);
  y.backward(given.is_contiguous() ? direction : channels_last(direction));
  Trained result{y.detach(), x.grad(), dense_gradient(*made.table), {}};
  for (const auto& parameter : made.map->parameters()) result.gradients.push_back(parameter.grad());
  return result;
}

TEST(MemoryMap, ContiguousAndChannelsLastMapsGiveTheSameBitsEachInItsLayout) {
  for (const int64_t dimensions : {1, 2, 3}) {
    for (const OutputMap output : {OutputMap::none, OutputMap::projection}) {
      const auto change = [&](auto& o) { o.output = output; };
      const Map one = make_map(dimensions, change, at::kFloat), two = make_map(dimensions, change, at::kFloat);
      const Tensor x = torch::randn(map_sizes(dimensions));
      const Trained plain = trained(one, x), last = trained(two, channels_last(x));
      EXPECT_TRUE(plain.y.is_contiguous());
      EXPECT_TRUE(last.y.movedim(1, -1).is_contiguous());
      EXPECT_EQ(plain.y.sizes(), map_sizes(dimensions, output == OutputMap::none ? kRowWidth : kChannels));
      EXPECT_TRUE(harness::same_bits(plain.y, last.y.contiguous()));
      EXPECT_TRUE(harness::same_bits(plain.grad_x.contiguous(), last.grad_x.contiguous()));
      EXPECT_TRUE(harness::same_bits(plain.row_gradient, last.row_gradient));
      for (size_t i = 0; i < plain.gradients.size(); ++i) {
        EXPECT_TRUE(harness::same_bits(plain.gradients[i], last.gradients[i])) << i;
      }
    }
  }
}

TEST(MemoryMap, AChannelsLastMapIsReadAndWrittenWithoutACopyAndAContiguousOneWithOneEachWay) {
  const Map made = make_map(2, {}, at::kFloat);
  made.map->eval();
  const Tensor x = torch::randn({3, kChannels, 11, 13}), last = channels_last(x);
  const int64_t input = 3 * 11 * 13 * kChannels * 4, output = 3 * 11 * 13 * kRowWidth * 4;
  const torch::InferenceMode inference;
  const auto count = [](const std::vector<int64_t>& sizes, int64_t size) {
    return std::count(sizes.begin(), sizes.end(), size);
  };
  const auto of_last = allocations_of([&] { made.map->forward(last); });
  EXPECT_EQ(count(of_last, input), 0);
  EXPECT_EQ(count(of_last, output), 1);
  const auto of_contiguous = allocations_of([&] { made.map->forward(x); });
  EXPECT_EQ(count(of_contiguous, input), 1);
  EXPECT_EQ(count(of_contiguous, output), 2);
  EXPECT_EQ(of_contiguous.size(), of_last.size() + 2);
  EXPECT_EQ(made.map->tokens(last).const_data_ptr(), last.const_data_ptr());
}

Tensor convolution(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const int64_t half = weight.size(2) / 2;
  if (x.dim() == 3) return torch::conv1d(x, weight, bias, 1, half);
  if (x.dim() == 4) return torch::conv2d(x, weight, bias, 1, half);
  return torch::conv3d(x, weight, bias, 1, half);
}

Tensor normed(const Tensor& x, const NormTensors& norm) {  // over all but the channels
  std::vector<int64_t> over = {0}, shape(static_cast<size_t>(x.dim()), 1);
  for (int64_t i = 2; i < x.dim(); ++i) over.push_back(i);
  shape[1] = -1;
  const auto spread = [&](const Tensor& t) { return t.view(shape); };
  return (x - x.mean(over, true)) / (x.var(over, /*unbiased=*/false, true) + 1e-5).sqrt() * spread(norm.gain) +
         spread(norm.bias);
}

TEST(MemoryMap, QueriesOfLargerKernelsAreConvolutionsBeforeTheBaseLayer) {
  const std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>> stacks = {
      {{3}, {}}, {{3, 1}, {6}}, {{1, 5}, {3}}, {{3, 3, 1}, {4, 6}}};
  for (const int64_t dimensions : {1, 2, 3}) {
    for (const auto& [kernels, hidden] : stacks) {
      SCOPED_TRACE(c10::str(dimensions, " dimensions, kernels ", kernels));
      const Map made = make_map(dimensions, [&](auto& o) { o.query_kernels = kernels, o.query_hidden = hidden; });
      const auto& net = dynamic_cast<const ConvolutionQueryNet&>(*made.map->memory->query_net);
      ProductKeyMemoryOptions base_options = made.map->options();
      base_options.width = base_options.heads * base_options.key_width;
      base_options.query_hidden.clear();
      ProductKeyMemory base("base", base_options, made.table, 7, std::make_shared<IdentityQueryNet>());
      base.to(at::kDouble);
      const torch::NoGradGuard guard;
      base.keys1.copy_(made.map->memory->keys1);
      base.keys2.copy_(made.map->memory->keys2);
      base.norm.gain.copy_(made.map->memory->norm.gain);
      base.norm.bias.copy_(made.map->memory->norm.bias);

      const Tensor x = torch::randn(map_sizes(dimensions), at::kDouble);
      Tensor map = x;
      for (size_t i = 0; i < kernels.size(); ++i) {
        const bool last = i + 1 == kernels.size();
        map = convolution(map, net.weight[i], last ? net.bias : Tensor());
        if (!last) map = at::relu(normed(map, net.norm[i]));
      }
      const MemoryReads expected = base.read_with_indices(map.movedim(1, -1));
      const MemoryReads got = made.map->read_with_indices(x);
      EXPECT_TRUE(torch::equal(got.index, expected.index));
      EXPECT_TRUE(torch::allclose(got.output, expected.output, 1e-9, 1e-10));
    }
  }
}

// Of x, all parameters and the rows, where the step changes no index.
void expect_finite_differences(const Map& made, const Tensor& x) {
  const Tensor direction = torch::randn(made.map->forward(x).sizes(), at::kDouble);
  const Tensor index = made.map->read_with_indices(x).index;
  made.table->store().references().clear();
  (made.map->forward(x) * direction).sum().backward();
  std::vector<std::pair<Tensor, Tensor>> pairs = {{x, x.grad()},
                                                  {made.table->store().values(), dense_gradient(*made.table)}};
  for (const auto& parameter : made.map->parameters()) pairs.emplace_back(parameter, parameter.grad());
  const torch::NoGradGuard guard;
  const auto loss = [&] {
    EXPECT_TRUE(torch::equal(made.map->read_with_indices(x).index, index));
    return (made.map->forward(x) * direction).sum().item<double>();
  };
  for (size_t i = 0; i < pairs.size(); ++i) {
    const Tensor flat = pairs[i].first.detach().view(-1);
    for (int64_t j = 0; j < flat.numel(); j += 1 + flat.numel() / 7) {
      const double step = 1e-6, before = flat[j].item<double>();
      flat[j].fill_(before + step);
      const double up = loss();
      flat[j].fill_(before - step);
      const double down = loss();
      flat[j].fill_(before);
      EXPECT_NEAR((up - down) / (2 * step), pairs[i].second.view(-1)[j].item<double>(), 1e-6) << i << " " << j;
    }
  }
}

TEST(MemoryMap, GradientsEqualFiniteDifferencesAtFixedIndices) {
  for (const QueryNorm norm : {QueryNorm::none, QueryNorm::layer, QueryNorm::batch, QueryNorm::center}) {
    for (const bool deep : {false, true}) {
      SCOPED_TRACE(c10::str(static_cast<int>(norm), " ", deep));
      const Map made = make_map(2, [&](auto& o) {
        o.query_norm = norm;
        o.output = deep ? OutputMap::projection : OutputMap::none;
        if (deep) o.query_kernels = {3, 1}, o.query_hidden = {4};
      });
      // The mean of `center` is a constant in backward, as in evaluation.
      if (norm == QueryNorm::center) made.map->eval();
      expect_finite_differences(made, torch::randn(map_sizes(2), at::kDouble).requires_grad_());
    }
  }
}

// A map with a frame of other numbers around it is the map alone: outside the mask is padding.
TEST(MemoryMap, PositionsOutsideTheMaskArePadding) {
  for (const bool deep : {false, true}) {
    const auto change = [&](auto& o) {
      if (deep) o.query_kernels = {3, 3}, o.query_hidden = {4};
    };
    const Map alone = make_map(2, change), padded = make_map(2, change);
    const Tensor x = torch::randn({2, kChannels, 3, 4}, at::kDouble);
    const Tensor wide = torch::randn({2, kChannels, 5, 6}, at::kDouble) * 100;
    const Tensor mask = at::zeros({2, 5, 6}, at::kBool);
    const auto inside = [](const Tensor& t) { return t.narrow(-2, 1, 3).narrow(-1, 1, 4); };
    inside(wide).copy_(x);
    inside(mask).fill_(true);
    const Tensor y = padded.map->forward(wide, {.token_mask = mask, .generator = {}});
    EXPECT_TRUE(torch::allclose(inside(y), alone.map->forward(x), 1e-10, 1e-12));
    EXPECT_EQ(y.masked_fill(mask.unsqueeze(1), 0).abs().max().item<double>(), 0);
    for (size_t i = 0; i < alone.map->buffers().size(); ++i) {
      EXPECT_TRUE(torch::allclose(padded.map->buffers()[i], alone.map->buffers()[i], 1e-10, 1e-12)) << i;
    }
  }
}

TEST(MemoryMap, EmptyBatchesSinglePositionsAndLowPrecisionKeepShapeAndType) {
  for (const int64_t dimensions : {0, 1, 2, 3}) {
    for (const bool deep : {false, true}) {
      SCOPED_TRACE(c10::str(dimensions, " ", deep));
      const Map made = make_map(
          dimensions,
          [&](auto& o) {
            if (deep) o.query_kernels = {dimensions == 0 ? 1 : 3, 1}, o.query_hidden = {4};
          },
          at::kFloat);
      for (const int64_t batch : {0, 1, 2}) {
        std::vector<int64_t> sizes(static_cast<size_t>(dimensions + 2), 1), expected = sizes;
        sizes[0] = expected[0] = batch;
        sizes[1] = kChannels, expected[1] = kRowWidth;
        const Tensor x = torch::randn(sizes).requires_grad_();
        const Tensor y = made.map->forward(x);
        EXPECT_EQ(y.sizes(), expected);
        y.sum().backward();
        EXPECT_EQ(x.grad().sizes(), sizes);
        EXPECT_TRUE(made.map->forward(x).isfinite().all().item<bool>());
      }
      const Tensor x = torch::randn(map_sizes(dimensions));
      EXPECT_EQ(made.map->forward(x.to(at::kBFloat16)).scalar_type(), at::kBFloat16);
      const Tensor plain = made.map->forward(x);
      at::autocast::set_autocast_enabled(at::kCPU, true);
      at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
      const Tensor cast = made.map->forward(x), low = made.map->forward(x.to(at::kBFloat16));
      at::autocast::set_autocast_enabled(at::kCPU, false);
      at::autocast::clear_cache();
      EXPECT_EQ(cast.scalar_type(), at::kFloat);
      EXPECT_EQ(low.scalar_type(), at::kBFloat16);
      EXPECT_FALSE(torch::equal(cast, plain));  // the query's products were in bfloat16
      EXPECT_TRUE(cast.isfinite().all().item<bool>());
    }
  }
}

TEST(MemoryMap, UsageCountsEveryPositionsReads) {
  const Map made = make_map(3);
  const auto usage = std::make_shared<Usage>(kRows);
  const ObserverScope counting(*made.map->memory, usage);
  made.map->forward(torch::randn(map_sizes(3), at::kDouble));
  EXPECT_EQ(usage->metrics().reads, 2 * 3 * 5 * 2 * 2 * 4);
}

TEST(MemoryMap, RowOptimisersTrainTheRowsThatWereRead) {
  const Map made = make_map(2, {}, at::kFloat);
  std::vector<NamedParameter> dense;
  for (const auto& parameter : made.map->named_parameters()) dense.push_back({parameter.key(), parameter.value()});
  OptimizerSet optimizers(dense, {}, {{made.table, {}}}, 1);
  const Tensor before = made.table->store().values().detach().clone();
  const Tensor x = torch::randn({1, kChannels, 1, 2});
  const Tensor index = std::get<0>(at::_unique(made.map->read_with_indices(x).index));
  made.table->store().references().clear();
  made.map->forward(x).pow(2).sum().backward();
  optimizers.step(0, 10);
  const Tensor changed = (made.table->store().values().detach() != before).any(1).nonzero().squeeze(1);
  EXPECT_TRUE(torch::equal(changed, index));
  EXPECT_LT(changed.numel(), kRows);
}

TEST(MemoryMap, CalibrationTakesItsTokens) {
  const Map made = make_map(2, {}, at::kFloat);
  const Tensor x = torch::randn({40, kChannels, 4, 4}) * torch::rand({kChannels, 1, 1}) + 3;
  const Tensor before = made.table->store().values().detach().clone();
  calibrate(*made.map->memory, made.map->tokens(x).flatten(0, 2), {.seed = 2, .keep_values = true});
  EXPECT_TRUE(torch::equal(made.table->store().values(), before));
  const Tensor lengths = made.map->memory->keys1.norm(2, -1);
  EXPECT_TRUE(torch::allclose(lengths, at::ones_like(lengths)));
  calibrate(*made.map->memory, made.map->tokens(x).flatten(0, 2), {.seed = 2});
  EXPECT_EQ(made.table->store().values().abs().max().item<double>(), 0);
}

TEST(MemoryMap, OptionsThatDoNotFitAreRefused) {
  const std::vector<std::pair<std::string, std::function<void(MemoryMapOptions&)>>> bad = {
      {"MemoryMap: dimensions must be within 0 .. 3, got 4", [](auto& o) { o.dimensions = 4; }},
      {"ConvolutionQueryNet: kernels must be odd, got 2", [](auto& o) { o.query_kernels = {2}; }},
      {"ConvolutionQueryNet: kernels must be odd, got -1", [](auto& o) { o.query_kernels = {-1}; }},
      {"ConvolutionQueryNet: kernels must be 1 with dimensions 0, got 3",
       [](auto& o) { o.dimensions = 0, o.query_kernels = {3}; }},
      {"MemoryMap: query_kernels must be one more than the 0 query_hidden, got 2",
       [](auto& o) { o.query_kernels = {3, 1}; }},
      {"MemoryMap: query_kernels must be one more than the 1 query_hidden, got 1",
       [](auto& o) { o.query_hidden = {4}; }},
      {"ConvolutionQueryNet: channels must be at least 1, got 0",
       [](auto& o) { o.query_kernels = {3, 1}, o.query_hidden = {0}; }},
      {"width must be at least 1, got 0", [](auto& o) { o.width = 0; }},
      {"heads must be at least 1, got 0", [](auto& o) { o.heads = 0; }},
  };
  for (const auto& [message, change] : bad) {
    expect_error(ExitCode::usage, message, [&] { make_map(2, change); });
  }
  MemoryMapOptions options;
  options.width = 3;
  expect_error(ExitCode::usage, "table must be given, got none", [&] { MemoryMap("map", options, nullptr, 1); });
}

TEST(MemoryMap, MapsOfAnotherShapeAreRefused) {
  const Map made = make_map(2);
  const auto expect_refused = [&](const std::string& message, const Tensor& x, const Tensor& mask = {}) {
    try {
      made.map->forward(x, {.token_mask = mask, .generator = {}});
      ADD_FAILURE() << x.sizes() << " was accepted";
    } catch (const c10::Error& error) {
      EXPECT_THAT(error.what_without_backtrace(), testing::HasSubstr(message));
    }
  };
  const Tensor good = at::ones({2, kChannels, 3, 4}, at::kDouble);
  expect_refused("MemoryMap: x must be [B, C, height, width] with C = 5, got [2, 5, 3]", good.select(3, 0));
  expect_refused("MemoryMap: x must be [B, C, height, width] with C = 5, got [2, 3, 4, 5]", good.movedim(1, -1));
  expect_refused("x must be of a floating type, got Long", good.to(at::kLong));
  expect_refused("token_mask must be bool with 24 entries, one per token, got Bool [2, 3]", good,
                 at::ones({2, 3}, at::kBool));
}

}  // namespace
}  // namespace loci::memory_map_test
