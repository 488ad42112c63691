// Legend: T tokens, H heads, w width of half a query, n1, n2 sub-keys of the halves, K top_k.
#include "loci/nn/normalised_search.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include "loci/nn/batch_norm.h"
#include "loci/nn/half_norm.h"
#include "loci/nn/product_key_memory.h"
#include "loci/ops/product_key_search/product_key_search.h"
#include "loci/ops/product_key_search/product_key_search_cpu.h"
#include "loci/table/local_table.h"
#include "tests/op_harness.h"

namespace loci {
namespace {

using at::Tensor;
using ::testing::HasSubstr;

struct Size {
  int64_t T, H, w, n1, n2, K;
};

// Blocks of 48 and 64 tokens that are not full, lists of lanes and one by one, chunks of tokens.
const std::vector<Size> kSizes = {
    {5, 1, 1, 2, 3, 2}, {47, 2, 3, 7, 5, 4}, {130, 3, 20, 40, 33, 8}, {2100, 4, 16, 64, 64, 16}};

const std::vector<QueryNorm> kNorms = {QueryNorm::batch, QueryNorm::layer, QueryNorm::rms};

struct Inputs {
  Tensor x, gain, bias, mean, variance, keys1, keys2;

  explicit Inputs(const Size& s, at::ScalarType type = at::kFloat) {
    torch::manual_seed(3);
    const int64_t features = s.H * 2 * s.w;
    x = (torch::randn({s.T, features}) * 2 + 3).to(type).requires_grad_();
    gain = torch::randn({s.H, 2, s.w}).requires_grad_();
    bias = torch::randn({s.H, 2, s.w}).requires_grad_();
    mean = torch::randn({features});
    variance = torch::rand({features}) + 0.5;
    keys1 = torch::randn({s.H, s.n1, s.w}).requires_grad_();
    keys2 = torch::randn({s.H, s.n2, s.w}).requires_grad_();
  }
};

struct Found {
  Tensor score, index;
  std::vector<Tensor> statistics, gradients;  // of x, gain, keys1, keys2, bias
};

std::tuple<Tensor, Tensor> together(const Size& s, const Inputs& in, QueryNorm norm) {
  const SearchSize size{s.K, s.n1 * s.n2};
  if (norm == QueryNorm::batch) {
    return batch_norm_search(in.x, in.gain.flatten(), in.bias.flatten(), in.mean, in.variance, in.keys1, in.keys2,
                             size);
  }
  return half_norm_search(in.x, in.gain, norm == QueryNorm::layer ? in.bias : Tensor(), in.keys1, in.keys2, size);
}

std::tuple<Tensor, Tensor> apart(const Size& s, const Inputs& in, QueryNorm norm) {
  const auto by_head = [&](const Tensor& x) { return x.view({s.T, s.H, 2, s.w}); };
  const Tensor query = norm == QueryNorm::batch
                           ? by_head(batch_norm(in.x, in.gain.flatten(), in.bias.flatten(), in.mean, in.variance, true))
                           : half_norm(by_head(in.x.to(at::kFloat)), in.gain,
                                       norm == QueryNorm::layer ? in.bias : Tensor());
  return product_key_search(query, in.keys1, in.keys2, s.K, s.n1 * s.n2);
}

template <class Way>
Found found_of(const Way& way, const Size& s, at::ScalarType type, QueryNorm norm) {
  const Inputs in(s, type);
  Found found;
  std::tie(found.score, found.index) = way(s, in, norm);
  torch::manual_seed(4);
  (found.score * torch::randn_like(found.score)).sum().backward();
  found.statistics = {in.mean, in.variance};
  found.gradients = {in.x.grad(), in.gain.grad(), in.keys1.grad(), in.keys2.grad()};
  if (norm != QueryNorm::rms) found.gradients.push_back(in.bias.grad());
  return found;
}

TEST(NormalisedSearch, EqualsTheNormThenTheSearch) {
  for (const Size& s : kSizes) {
    for (const QueryNorm norm : kNorms) {
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        SCOPED_TRACE(testing::Message() << "T " << s.T << " norm " << static_cast<int>(norm) << " " << type);
        const Found got = found_of(together, s, type, norm), expected = found_of(apart, s, type, norm);
        EXPECT_TRUE(torch::equal(got.score, expected.score));
        EXPECT_TRUE(torch::equal(got.index, expected.index));
        for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(torch::equal(got.statistics[i], expected.statistics[i])) << i;
        ASSERT_EQ(got.gradients.size(), expected.gradients.size());
        for (size_t i = 0; i < got.gradients.size(); ++i) {
          const Tensor one = got.gradients[i].to(at::kDouble), other = expected.gradients[i].to(at::kDouble);
          EXPECT_EQ(got.gradients[i].scalar_type(), expected.gradients[i].scalar_type());
          // Batch norm's sums in another order may round a bfloat16 to its neighbour.
          const double share = i == 0 && type == at::kBFloat16 ? 1.0 / 128 : 1e-6;
          EXPECT_TRUE(torch::allclose(one, other, share, 1e-6 * other.abs().max().item<double>())) << i;
          const bool sums_over_tokens = i == 1 || i == 4 || (i == 0 && norm == QueryNorm::batch);
          EXPECT_TRUE(sums_over_tokens || torch::equal(one, other)) << i;
        }
      }
    }
  }
}

// Queries twice what is read, and their gradient kept.
class Doubled : public QueryNormaliser {
 public:
  Doubled(const Tensor& x, const Tensor& gradient) : x_(x), gradient_(gradient) {}
  void normalise(int64_t t, int64_t h, int64_t half, int64_t tokens, float* to) const override {
    rows(t, h, half, tokens, to).copy_(part(x_, t, h, half, tokens) * 2);
  }
  void take_gradient(int64_t, int64_t t, int64_t h, int64_t half, int64_t tokens, const float* grad) const override {
    part(gradient_, t, h, half, tokens).copy_(rows(t, h, half, tokens, const_cast<float*>(grad)));
  }

 private:
  static Tensor part(const Tensor& x, int64_t t, int64_t h, int64_t half, int64_t tokens) {
    return x.narrow(0, t, tokens).select(1, h).select(1, half);
  }
  Tensor rows(int64_t, int64_t, int64_t, int64_t tokens, float* at) const {
    return torch::from_blob(at, {tokens, x_.size(3)});
  }
  Tensor x_, gradient_;
};

TEST(NormalisedSearch, EveryLevelSearchesWhatTheNormaliserMakes) {
  for (const Size& s : kSizes) {
    const Inputs in(s);
    const Tensor x = in.x.detach().view({s.T, s.H, 2, s.w}), keys1 = in.keys1.detach(), keys2 = in.keys2.detach();
    const Tensor gradient = torch::zeros_like(x);
    const Doubled queries(x, gradient);
    for (const CpuLevel level : cpu_levels()) {
      SCOPED_TRACE(testing::Message() << "T " << s.T << " " << name_of(level));
      const int64_t addresses = s.n1 * s.n2;
      const auto [score, index] = normalised_search_cpu(x, queries, keys1, keys2, s.K, addresses, level);
      const auto expected = product_key_search_cpu(x * 2, keys1, keys2, s.K, addresses, level);
      EXPECT_TRUE(torch::equal(score, std::get<0>(expected)));
      EXPECT_TRUE(torch::equal(index, std::get<1>(expected)));
      const Tensor grad = torch::randn_like(score);
      const auto [of_keys1, of_keys2] =
          normalised_search_backward_cpu(grad, index, x, queries, keys1, keys2, level);
      const auto truth = search_backward_cpu(grad, index, x * 2, keys1, keys2, level);
      EXPECT_TRUE(torch::equal(gradient, std::get<0>(truth)));
      EXPECT_TRUE(torch::equal(of_keys1, std::get<1>(truth)));
      EXPECT_TRUE(torch::equal(of_keys2, std::get<2>(truth)));
    }
  }
}

TEST(NormalisedSearch, SameBitsForAnyThreadCount) {
  const int before = at::get_num_threads();
  for (const QueryNorm norm : kNorms) {
    std::vector<Tensor> first;
    for (const int threads : {1, 2, 3, 8}) {
      at::set_num_threads(threads);
      const Found found = found_of(together, kSizes[3], at::kFloat, norm);
      std::vector<Tensor> all = found.gradients;
      all.insert(all.end(), {found.score, found.index});
      if (first.empty()) first = all;
      for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(torch::equal(all[i], first[i])) << threads << " " << i;
    }
  }
  at::set_num_threads(before);
}

// Dropout of queries stands between the two, and few tokens are searched one by one: the memory then runs them apart.
TEST(NormalisedSearch, AMemoryTrainsWithItAndWithoutIt) {
  const auto train = [](QueryNorm norm, double dropout, int64_t tokens) {
    ProductKeyMemoryOptions options;
    options.width = 12;
    options.heads = 2;
    options.top_k = 4;
    options.key_width = 8;
    options.query_norm = norm;
    options.query_dropout = dropout;
    auto table = std::make_shared<LocalTable>("values", 100, 12, LocalTableOptions{});
    table->initialise_normal(1, 1);
    ProductKeyMemory memory("memory", options, table, 7);
    torch::manual_seed(1);
    const Tensor y = memory.forward(torch::randn({tokens, 12}));
    y.pow(2).sum().backward();
    return at::cat({y.detach().flatten(), memory.keys1.grad().flatten(), memory.query_weight[0].grad().flatten()});
  };
  for (const QueryNorm norm : kNorms) {
    // A dropout that never drops: the same search from queries of their own.
    EXPECT_TRUE(torch::allclose(train(norm, 0, 60), train(norm, 1e-9, 60), 1e-4, 1e-5));
    EXPECT_TRUE(torch::equal(train(norm, 0, 4), train(norm, 1e-9, 4)));
  }
}

TEST(NormalisedSearch, RefusesBadInput) {
  const Inputs in(kSizes[1]);
  const SearchSize size{4, 35};
  const auto batch = [&](const Tensor& x, const Tensor& keys1) {
    return harness::message_of([&] {
      batch_norm_search(x, in.gain.flatten(), in.bias.flatten(), in.mean, in.variance, keys1, in.keys2, size);
    });
  };
  const auto half = [&](const Tensor& x, const Tensor& gain) {
    return harness::message_of([&] { half_norm_search(x, gain, in.bias, in.keys1, in.keys2, size); });
  };
  EXPECT_THAT(batch(in.x[0], in.keys1), HasSubstr("batch_norm: x must be [T, C], got [12]"));
  EXPECT_THAT(batch(in.x.narrow(0, 0, 4), in.keys1), HasSubstr("more than 4 tokens"));
  EXPECT_THAT(batch(in.x, in.keys1.to(at::kBFloat16)), HasSubstr("keys float32"));
  EXPECT_THAT(batch(in.x, in.keys1.narrow(2, 0, 2)), HasSubstr("x must be [T, H * 2 * w]"));
  EXPECT_THAT(half(in.x[0], in.gain), HasSubstr("half_norm_search: x must be [T, H * 2 * w]"));
  EXPECT_THAT(half(in.x, in.gain[0]), HasSubstr("gain and bias must be float32 [2, 2, 3], got Float [2, 3]"));
  EXPECT_FALSE(search_normalises(in.x.to(at::kDouble), in.keys1, in.keys2, 4));
}

TEST(NormalisedSearch, SecondDerivativeIsRefused) {
  for (const QueryNorm norm : kNorms) {
    const Inputs in(kSizes[0]);
    const Tensor score = std::get<0>(together(kSizes[0], in, norm));
    EXPECT_THROW(torch::autograd::grad({score.pow(2).sum()}, {in.x}, {}, true, /*create_graph=*/true),
                 c10::NotImplementedError);
  }
}

}  // namespace
}  // namespace loci
