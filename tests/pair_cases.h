// Cases of the pairwise operators, for tests.
//
// Legend: B batch, N queries, M keys, I inner width, V width of a value.
#pragma once

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "tests/op_harness.h"

namespace loci {

struct PairSize {
  int64_t B, N, M, I, V;
};

inline std::ostream& operator<<(std::ostream& out, const PairSize& s) {
  return out << "B " << s.B << " N " << s.N << " M " << s.M << " I " << s.I << " V " << s.V;
}

// Odd sizes, one key, one query, several blocks of queries (one sample and two), several panels of keys, many small
// samples, no sample.
inline std::vector<PairSize> pair_sizes() {
  return {{2, 7, 5, 3, 4},    {1, 1, 1, 1, 1},    {3, 9, 1, 5, 2},     {2, 1, 17, 4, 33},
          {1, 130, 31, 8, 7}, {2, 300, 40, 9, 5}, {1, 1100, 40, 9, 5}, {1, 33, 700, 16, 15},
          {70, 6, 5, 4, 3},   {0, 4, 5, 3, 2},    {2, 0, 5, 3, 2}};
}

// theta [B, N, I], phi [B, M, I], g [B, M, V].
inline std::vector<at::Tensor> pair_inputs(const PairSize& s, at::ScalarType type) {
  return {torch::randn({s.B, s.N, s.I}, type), torch::randn({s.B, s.M, s.I}, type),
          torch::randn({s.B, s.M, s.V}, type)};
}

using WeightsOf = std::function<at::Tensor(const at::Tensor& logits)>;

// y_i = sum over j of weights(theta_i . phi)_j g_j, one pair at a time, in double.
inline at::Tensor loop_over_pairs(const std::vector<at::Tensor>& x, const WeightsOf& weights) {
  const at::Tensor y = torch::zeros({x[0].size(0), x[0].size(1), x[2].size(2)}, torch::kDouble);
  for (int64_t b = 0; b < x[0].size(0); ++b) {
    for (int64_t i = 0; i < x[0].size(1); ++i) {
      const at::Tensor logits = torch::zeros({x[1].size(1)}, torch::kDouble);
      for (int64_t j = 0; j < x[1].size(1); ++j) logits[j] = (x[0][b][i] * x[1][b][j]).sum();
      const at::Tensor weight = weights(logits);
      for (int64_t j = 0; j < x[1].size(1); ++j) y[b][i] += weight[j] * x[2][b][j];
    }
  }
  return y;
}

// The result and the gradients of all inputs for a fixed cotangent, the same numbers in every type.
inline std::vector<at::Tensor> result_and_gradients(const harness::Function& f, const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(input.detach().clone().set_requires_grad(true));
  const at::Tensor y = f(leaves);
  const at::Tensor cotangent =
      torch::cos(torch::arange(y.numel(), torch::kDouble)).view(y.sizes()).to(torch::kBFloat16).to(y.scalar_type());
  std::vector<at::Tensor> results = torch::autograd::grad({y}, leaves, {cotangent});
  results.insert(results.begin(), y.detach());
  return results;
}

// Result and gradients keep the error rule against the definition.
inline void expect_pair_error_rule(const harness::Function& fast, const harness::Function& definition,
                                   const std::vector<at::Tensor>& inputs, const PairSize& size) {
  std::vector<at::Tensor> wide;
  for (const at::Tensor& input : inputs) wide.push_back(input.to(torch::kDouble));
  const auto got = result_and_gradients(fast, inputs), defined = result_and_gradients(definition, inputs);
  const auto exact = result_and_gradients(definition, wide);
  for (size_t i = 0; i < got.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << size << " of " << inputs[0].scalar_type() << ", result " << i);
    harness::expect_error_rule(got[i], defined[i], exact[i]);
  }
}

inline void expect_pair_messages(const std::string& who, const harness::Function& f) {
  using ::testing::HasSubstr;
  const auto x = pair_inputs({2, 7, 5, 3, 4}, torch::kFloat);
  const auto message = [&](const at::Tensor& theta, const at::Tensor& phi, const at::Tensor& g) {
    return harness::message_of([&] { f({theta, phi, g}); });
  };
  EXPECT_THAT(message(x[0][0], x[1], x[2]),
              HasSubstr(who + ": theta must be [B, N, I] of a floating type, got [7, 3] of Float"));
  EXPECT_THAT(message(x[0].to(torch::kLong), x[1], x[2]), HasSubstr("got [2, 7, 3] of Long"));
  EXPECT_THAT(message(x[0], x[1].to(torch::kDouble), x[2]),
              HasSubstr(who + ": phi must be Float on cpu like theta, got Double on cpu"));
  EXPECT_THAT(message(x[0], x[1].transpose(1, 2), x[2]),
              HasSubstr(who + ": phi must be [2, M >= 1, 3], got [2, 3, 5]"));
  EXPECT_THAT(message(x[0], x[1].narrow(1, 0, 0), x[2]), HasSubstr("phi must be [2, M >= 1, 3], got [2, 0, 3]"));
  EXPECT_THAT(message(x[0], x[1], x[2].to(torch::kMeta)),
              HasSubstr(who + ": g must be Float on cpu like theta, got Float on meta"));
  EXPECT_THAT(message(x[0], x[1], x[2].narrow(1, 0, 4)), HasSubstr(who + ": g must be [2, 5, V], got [2, 4, 4]"));
}

}  // namespace loci
