// What a memory on maps reads and passes back, against brute force, convolutions of the framework and finite
// differences.
//
// Legend: H heads, w half a key's width, D width of a row.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "loci/nn/memory/convolution_query_net.h"
#include "loci/nn/memory/memory_map.h"
#include "tests/feature_maps.h"
#include "tests/row_gradient.h"

namespace loci::memory_map_formula_test {
namespace {

using at::Tensor;

void whole_numbers(const BuiltMap& made) {
  const torch::NoGradGuard guard;
  for (auto& parameter : made.map->parameters()) parameter.copy_(torch::randint(-1, 2, parameter.sizes()));
  made.table->store().values().copy_(torch::randint(-3, 4, {kMapRows, kMapRowWidth}));
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
          const int64_t position[] = {t, row, column};
          for (int64_t i = 5 - x.dim(); i < 3; ++i) at = at.select(1, position[i]);
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
  for (int64_t r = 0; r < kMapRows; ++r) {
    all.push_back(score1.const_data_ptr<double>()[r / n2] + score2.const_data_ptr<double>()[r % n2]);
  }
  std::vector<int64_t> order(kMapRows);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return all[a] > all[b]; });
  order.resize(static_cast<size_t>(m.options().top_k));
  Best best{order, {}};
  for (const int64_t r : order) best.score.push_back(all[r]);
  return best;
}

// Whole numbers make sums exact and ties frequent; `exact` compares bits.
void expect_brute_force(const BuiltMap& made, const Tensor& x, bool exact) {
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
    Tensor sum = at::zeros({kMapRowWidth}, values.options());
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
    const BuiltMap tied = built_map(dimensions, [](auto& o) { o.query_norm = QueryNorm::none; }, at::kFloat);
    whole_numbers(tied);
    const Tensor whole = torch::randint(-2, 3, map_sizes(dimensions)).to(at::kFloat);
    expect_brute_force(tied, whole, /*exact=*/true);
    expect_brute_force(tied, channels_last(whole), /*exact=*/true);

    const BuiltMap drawn = built_map(dimensions);
    drawn.map->forward(torch::randn(map_sizes(dimensions), at::kDouble));  // moves the statistics
    expect_brute_force(drawn, torch::randn(map_sizes(dimensions), at::kDouble), /*exact=*/false);
  }
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
      const BuiltMap made = built_map(dimensions, [&](auto& o) { o.query_kernels = kernels, o.query_hidden = hidden; });
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
void expect_finite_differences(const BuiltMap& made, const Tensor& x) {
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
      const BuiltMap made = built_map(2, [&](auto& o) {
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

}  // namespace
}  // namespace loci::memory_map_formula_test
