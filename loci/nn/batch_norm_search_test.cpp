// Legend: T tokens, H heads, w width of half a query, n1, n2 sub-keys of the halves, K top_k.
#include "loci/nn/batch_norm_search.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include "loci/nn/batch_norm.h"
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
const std::vector<Size> kSizes = {{5, 1, 1, 2, 3, 2}, {47, 2, 3, 7, 5, 4}, {130, 3, 20, 40, 33, 8}, {2100, 4, 16, 64, 64, 16}};

struct Inputs {
  Tensor x, gain, bias, mean, variance, keys1, keys2;

  explicit Inputs(const Size& s, at::ScalarType type = at::kFloat) {
    torch::manual_seed(3);
    const int64_t features = s.H * 2 * s.w;
    x = (torch::randn({s.T, features}) * 2 + 3).to(type).requires_grad_();
    gain = torch::randn({features}).requires_grad_();
    bias = torch::randn({features}).requires_grad_();
    mean = torch::randn({features});
    variance = torch::rand({features}) + 0.5;
    keys1 = torch::randn({s.H, s.n1, s.w}).requires_grad_();
    keys2 = torch::randn({s.H, s.n2, s.w}).requires_grad_();
  }
};

struct Found {
  Tensor score, index;
  std::vector<Tensor> statistics, gradients;
};

Found found_of(const Size& s, Inputs in, bool together) {
  const int64_t addresses = s.n1 * s.n2;
  Found found;
  if (together) {
    std::tie(found.score, found.index) = batch_norm_search(in.x, in.gain, in.bias, in.mean, in.variance, in.keys1,
                                                           in.keys2, s.K, addresses);
  } else {
    const Tensor query = batch_norm(in.x, in.gain, in.bias, in.mean, in.variance, /*training=*/true);
    std::tie(found.score, found.index) =
        product_key_search(query.view({s.T, s.H, 2, s.w}), in.keys1, in.keys2, s.K, addresses);
  }
  torch::manual_seed(4);
  (found.score * torch::randn_like(found.score)).sum().backward();
  found.statistics = {in.mean, in.variance};
  found.gradients = {in.x.grad(), in.gain.grad(), in.bias.grad(), in.keys1.grad(), in.keys2.grad()};
  return found;
}

TEST(BatchNormSearch, EqualsBatchNormThenSearch) {
  for (const Size& s : kSizes) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(testing::Message() << "T " << s.T << " " << type);
      const Found got = found_of(s, Inputs(s, type), true), expected = found_of(s, Inputs(s, type), false);
      EXPECT_TRUE(torch::equal(got.score, expected.score));
      EXPECT_TRUE(torch::equal(got.index, expected.index));
      for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(torch::equal(got.statistics[i], expected.statistics[i])) << i;
      for (size_t i = 0; i < got.gradients.size(); ++i) {
        const Tensor one = got.gradients[i].to(at::kDouble), other = expected.gradients[i].to(at::kDouble);
        EXPECT_EQ(got.gradients[i].scalar_type(), expected.gradients[i].scalar_type());
        // A sum in another order may round a bfloat16 to its neighbour.
        const double share = i == 0 && type == at::kBFloat16 ? 1.0 / 128 : 1e-6;
        EXPECT_TRUE(torch::allclose(one, other, share, 1e-6 * other.abs().max().item<double>())) << i;
      }
      for (size_t i = 3; i < 5; ++i) EXPECT_TRUE(torch::equal(got.gradients[i], expected.gradients[i])) << i;
    }
  }
}

TEST(BatchNormSearch, EveryLevelSearchesWhatItNormalises) {
  const Size s = kSizes[2];
  const Inputs in(s);
  const Tensor x = in.x.detach().view({s.T, s.H, 2, s.w});
  const Tensor constants = torch::randn({4, s.H * 2 * s.w});
  const Tensor centred = x.view({s.T, -1}) - constants[0] - constants[1];
  const Tensor query = (centred * constants[2] + constants[3]).view(x.sizes());
  for (const CpuLevel level : cpu_levels()) {
    SCOPED_TRACE(name_of(level));
    const auto [score, index] =
        normalised_search_cpu(x, constants, in.keys1.detach(), in.keys2.detach(), s.K, s.n1 * s.n2, level);
    const auto [expected_score, expected_index] =
        product_key_search_cpu(query, in.keys1.detach(), in.keys2.detach(), s.K, s.n1 * s.n2, level);
    EXPECT_TRUE(torch::equal(score, expected_score));
    EXPECT_TRUE(torch::equal(index, expected_index));

    const Tensor grad = torch::randn_like(score);
    const auto got =
        normalised_search_backward_cpu(grad, index, x, constants, in.keys1.detach(), in.keys2.detach(), level);
    const auto [of_query, of_keys1, of_keys2] =
        search_backward_cpu(grad, index, query, in.keys1.detach(), in.keys2.detach(), level);
    EXPECT_TRUE(torch::equal(got.query, of_query));
    EXPECT_TRUE(torch::equal(got.keys1, of_keys1));
    EXPECT_TRUE(torch::equal(got.keys2, of_keys2));
    const Tensor wide = of_query.view({s.T, -1}).to(at::kDouble);
    const Tensor sums = at::stack({wide.sum(0), (wide * centred).sum(0)});
    EXPECT_TRUE(torch::allclose(got.sums, sums, 1e-5, 1e-4)) << (got.sums - sums).abs().max();
  }
}

TEST(BatchNormSearch, SameBitsForAnyThreadCount) {
  const int before = at::get_num_threads();
  std::vector<Tensor> first;
  for (const int threads : {1, 2, 3, 8}) {
    at::set_num_threads(threads);
    const Found found = found_of(kSizes[3], Inputs(kSizes[3]), true);
    std::vector<Tensor> all = found.gradients;
    all.insert(all.end(), {found.score, found.index});
    if (first.empty()) first = all;
    for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(torch::equal(all[i], first[i])) << threads << " " << i;
  }
  at::set_num_threads(before);
}

// Dropout of queries stands between the two, and few tokens are searched one by one: the memory then runs them apart.
TEST(BatchNormSearch, AMemoryTrainsWithItAndWithoutIt) {
  const auto train = [](double dropout, int64_t tokens) {
    ProductKeyMemoryOptions options;
    options.width = 12;
    options.heads = 2;
    options.top_k = 4;
    options.key_width = 8;
    options.query_norm = QueryNorm::batch;
    options.query_dropout = dropout;
    auto table = std::make_shared<LocalTable>("values", 100, 12, LocalTableOptions{});
    table->initialise_normal(1, 1);
    ProductKeyMemory memory("memory", options, table, 7);
    torch::manual_seed(1);
    const Tensor y = memory.forward(torch::randn({tokens, 12}));
    y.pow(2).sum().backward();
    return at::cat({y.detach().flatten(), memory.keys1.grad().flatten(), memory.query_weight[0].grad().flatten(),
                    memory.running_mean.flatten()});
  };
  // A dropout that never drops: the same search from queries of their own.
  EXPECT_TRUE(torch::allclose(train(0, 60), train(1e-9, 60), 1e-4, 1e-5));
  EXPECT_TRUE(torch::equal(train(0, 4), train(1e-9, 4)));
}

TEST(BatchNormSearch, RefusesBadInput) {
  const Inputs in(kSizes[1]);
  const auto message = [&](const Tensor& x, const Tensor& keys1) {
    return harness::message_of([&] {
      batch_norm_search(x, in.gain, in.bias, in.mean, in.variance, keys1, in.keys2, 4, 35);
    });
  };
  EXPECT_THAT(message(in.x[0], in.keys1), HasSubstr("batch_norm: x must be [T, C], got [12]"));
  EXPECT_THAT(message(in.x.narrow(0, 0, 4), in.keys1), HasSubstr("more than 4 tokens"));
  EXPECT_THAT(message(in.x, in.keys1.to(at::kBFloat16)), HasSubstr("keys float32"));
  EXPECT_THAT(message(in.x, in.keys1.narrow(2, 0, 2)), HasSubstr("x must be [T, H * 2 * w]"));
  EXPECT_FALSE(batch_norm_search_takes(in.x.to(at::kDouble), in.keys1, in.keys2, 4));
}

TEST(BatchNormSearch, SecondDerivativeIsRefused) {
  const Inputs in(kSizes[0]);
  const auto [score, index] = batch_norm_search(in.x, in.gain, in.bias, in.mean, in.variance, in.keys1, in.keys2, 2, 6);
  EXPECT_THROW(torch::autograd::grad({score.pow(2).sum()}, {in.x}, {}, true, /*create_graph=*/true),
               c10::NotImplementedError);
}

}  // namespace
}  // namespace loci
