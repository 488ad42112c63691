#include "bench/cases.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <tuple>
#include <utility>

#include "bench/reel_cases.h"
#include "bench/row_cases.h"
#include "loci/ops/batch_norm/batch_norm.h"
#include "loci/ops/batch_norm/batch_norm_definition.h"
#include "loci/ops/binary_linear/binary_linear.h"
#include "loci/ops/few_linear/few_linear.h"
#include "loci/ops/few_linear/few_linear_definition.h"
#include "loci/ops/half_norm/half_norm.h"
#include "loci/ops/half_norm/half_norm_definition.h"
#include "loci/ops/product_key_search/product_key_search.h"
#include "loci/ops/product_key_search/product_key_search_definition.h"
#include "loci/ops/product_key_search/product_key_search_kernel.h"
#include "loci/ops/product_key_select/product_key_select.h"
#include "loci/ops/product_key_select/product_key_select_cpu.h"
#include "loci/ops/product_key_select/product_key_select_definition.h"
#include "loci/ops/random_basis/random_basis.h"

// Legend: case_size.h.

namespace loci::bench {
namespace {

using torch::Tensor;

// A layer of a small language model, one of a large one, and one token of generation.
const std::vector<CaseSize> kSizes = {
    {2048, 4, 128, 64, 16, 1 << 14, 128}, {4096, 4, 512, 128, 32, 1 << 18, 256}, {1, 4, 512, 128, 32, 1 << 18, 256}};

std::string search_size(const CaseSize& s) {
  return fmt::format("T {} H {} n {} w {} K {}", s.T, s.H, s.n, s.w, s.K);
}
// The linear maps of decoding.
Case few_linear_case(int64_t T, int64_t d, int64_t O) {
  const Tensor x = torch::randn({T, d}), weight = torch::randn({O, d});
  return {"few_linear",
          fmt::format("T {} inputs {} outputs {}", T, d, O),
          Bound::stream,
          count({T + O, d, 4}) + count({T, O, 4}),
          count({2, T, d, O}),
          [=] { few_linear(x, weight); },
          [=] { few_linear_definition(x, weight, std::nullopt); }};
}

// Signs of `inputs` numbers, beside the framework's float32 product of the same signs as numbers. A product needs
// T O K / 64 words of xor, popcount and sum in place of T O K multiply-adds, and reads O K / 8 bytes of weights in
// place of 4 O K: at one vector the bytes decide. `packs`: activations come as float32 and are packed; otherwise bits
// become bits.
Case binary_case(int64_t T, int64_t inputs, int64_t outputs, bool packs) {
  const Tensor x = torch::randn({T, inputs}), weight = torch::randn({outputs, inputs});
  const Tensor bits = sign_pack(x), weight_bits = sign_pack(weight);
  const Tensor threshold = torch::zeros({outputs}, torch::kInt), turned = sign_pack(torch::randn({outputs}));
  const Tensor x_signs = sign_unpack(bits, inputs), weight_signs = sign_unpack(weight_bits, inputs);
  const int64_t words = bits.size(1);
  return {
      "binary",
      fmt::format("{} T {} inputs {} outputs {}", packs ? "packed" : "layer", T, inputs, outputs),
      Bound::stream,
      count({outputs, words, 8}) + (packs ? count({T, inputs + outputs, 4}) : count({T, words + turned.size(0), 8})),
      count({2, T, inputs, outputs}),
      [=] {
        if (packs) {
          binary_linear(sign_pack(x), weight_bits, inputs);
        } else {
          binary_layer(bits, weight_bits, inputs, threshold, turned);
        }
      },
      [=] { at::linear(x_signs, weight_signs); }};
}

// Steps in random bases of d directions of n weights, beside a composition that keeps the basis: it draws d n numbers
// once and reads them for each half. `bytes` are those of the basis as float32, once for each half that makes it, so
// that GB/s / 4 are the numbers made in a nanosecond; none of them is moved. Estimate: about 1 instruction a number
// with 16 lanes and 2 with 8 (random_basis_kernel.h), 2 a nanosecond on a core of 3 GHz or more, of 51 million for both
// halves: 25 ms with 8 lanes. The composition draws 25 million normal numbers at 4 to 5 ns and reads 200 MB: above 120
// ms.
std::vector<Case> bases_cases() {
  constexpr int64_t d = 250, n = 101'770;
  const Tensor gradient = torch::randn({n}), theta = torch::randn({n}), c = torch::randn({d});
  const double bytes = count({d, n, 4}), operations = count({2, d, n});
  const auto basis = [=] { return torch::randn({d, n}).mul_(1 / std::sqrt(static_cast<double>(n))); };
  const auto of = [&](const char* part, double halves, std::function<void()> fast, std::function<void()> stored) {
    return Case{"bases",
                fmt::format("{} d {} n {}", part, d, n),
                Bound::stream,
                halves * bytes,
                halves * operations,
                std::move(fast),
                std::move(stored)};
  };
  return {
      of(
          "dot", 1, [=] { random_basis_dot(gradient, 0, d, {}); }, [=] { at::mv(basis(), gradient); }),
      of(
          "add", 1, [=] { random_basis_add(theta, c, -1e-6, 0, {}); }, [=] { theta.addmv_(basis().t(), c, 1, -1e-6); }),
      of(
          "step", 2, [=] { random_basis_add(theta, random_basis_dot(gradient, 0, d, {}), -1e-6, 0, {}); },
          [=] {
            const Tensor phi = basis();
            theta.addmv_(phi.t(), at::mv(phi, gradient), 1, -1e-6);
          })};
}

Case select_case(const CaseSize& s) {
  const Tensor score1 = torch::randn({s.T, s.H, s.n}), score2 = torch::randn({s.T, s.H, s.n});
  const int64_t A = s.n * s.n, K = s.K;
  return {"select",
          fmt::format("T {} H {} n {} K {}", s.T, s.H, s.n, s.K),
          Bound::stream,
          count({s.T, s.H, 2 * s.n * 4 + s.K * 12}),
          0,
          [=] { product_key_select(score1, score2, K, A); },
          [=] { product_key_select_definition(score1, score2, K, A); }};
}

// Blocks of scores as the search has them, a column a token: side by side, and one by one from rows. On one thread.
Case select_lanes_case(const CaseSize& s) {
  constexpr int64_t kTokens = 960, kColumns = ProductKeySearchKernel::tokens;
  const Tensor score1 = torch::randn({kTokens / kColumns, s.n, kColumns}), score2 = torch::randn_like(score1);
  const Tensor rows1 = score1.transpose(1, 2).contiguous(), rows2 = score2.transpose(1, 2).contiguous();
  const Tensor score = torch::empty({kTokens, s.K}), index = torch::empty({kTokens, s.K}, torch::kLong);
  const ProductKeySelectShape shape{s.n, s.n, s.K, s.n * s.n};
  const ProductKeySelectKernel& kernel = product_key_select_kernel_of(cpu_level());
  const Tensor memory = torch::empty({kernel.scratch_bytes(shape) / 64 + 2, 64}, torch::kByte);
  const auto scratch = [memory] {
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data_ptr()) + 63) / 64 * 64);
  };
  return {"select_lanes",
          fmt::format("T {} n {} K {}", kTokens, s.n, s.K),
          Bound::stream,
          count({kTokens, 2 * s.n * 4 + s.K * 12}),
          0,
          [=, &kernel] {
            for (int64_t t = 0; t < kTokens; t += kernel.lanes) {
              const int64_t at = t / kColumns * s.n * kColumns + t % kColumns;
              kernel.select_lanes(shape, score1.const_data_ptr<float>() + at, score2.const_data_ptr<float>() + at,
                                  kColumns, kernel.lanes, score.data_ptr<float>() + t * s.K,
                                  index.data_ptr<int64_t>() + t * s.K, s.K, scratch());
            }
          },
          [=, &kernel] {
            for (int64_t t = 0; t < kTokens; ++t) {
              kernel.select_float32(shape, rows1.const_data_ptr<float>() + t * s.n,
                                    rows2.const_data_ptr<float>() + t * s.n, score.data_ptr<float>() + t * s.K,
                                    index.data_ptr<int64_t>() + t * s.K, scratch());
            }
          }};
}

// The queries of a layer, normalised by feature.
struct BatchNormInputs {
  Tensor x, grad, gain, bias, mean, variance, statistics;
  explicit BatchNormInputs(const CaseSize& s)
      : x(torch::randn({s.T, s.H * 2 * s.w})),
        grad(torch::randn_like(x)),
        gain(torch::randn({x.size(1)})),
        bias(torch::randn_like(gain)),
        mean(torch::zeros_like(gain)),
        variance(torch::ones_like(gain)),
        statistics(std::get<1>(batch_norm_definition(x, gain, bias, mean, variance, true, 0, 1e-5))) {}
};

std::string norm_size(const CaseSize& s) {
  return fmt::format("T {} features {}", s.T, s.H * 2 * s.w);
}

// x is read once for its statistics and once for y.
Case batch_norm_case(const CaseSize& s) {
  const BatchNormInputs in(s);
  return {"batch_norm",
          norm_size(s),
          Bound::stream,
          count({3, in.x.numel(), 4}),
          0,
          [=] { batch_norm(in.x, in.gain, in.bias, in.mean, in.variance, true); },
          [=] { batch_norm_definition(in.x, in.gain, in.bias, in.mean, in.variance, true, 0.1, 1e-5); }};
}

Case batch_norm_backward_case(const CaseSize& s) {
  const BatchNormInputs in(s);
  return {"batch_norm_backward",
          norm_size(s),
          Bound::stream,
          count({5, in.x.numel(), 4}),
          0,
          [=] { batch_norm_backward(in.grad, in.x, in.gain, in.statistics, true); },
          [=] { batch_norm_backward_definition(in.grad, in.x, in.gain, in.statistics, true); }};
}

// The same queries, normalised by half.
struct HalfNormInputs {
  Tensor x, grad, gain, bias, mean, scale;
  explicit HalfNormInputs(const CaseSize& s)
      : x(torch::randn({s.T, s.H, 2, s.w})),
        grad(torch::randn_like(x)),
        gain(torch::randn({s.H, 2, s.w})),
        bias(torch::randn_like(gain)) {
    std::tie(std::ignore, mean, scale) = half_norm_definition(x, gain, bias, 1e-5);
  }
};

Case half_norm_case(const CaseSize& s) {
  const HalfNormInputs in(s);
  return {"half_norm",
          norm_size(s),
          Bound::stream,
          count({2, in.x.numel(), 4}),
          0,
          [=] { half_norm(in.x, in.gain, in.bias); },
          [=] { half_norm_definition(in.x, in.gain, in.bias, 1e-5); }};
}

Case half_norm_backward_case(const CaseSize& s) {
  const HalfNormInputs in(s);
  return {"half_norm_backward",
          norm_size(s),
          Bound::stream,
          count({3, in.x.numel(), 4}),
          0,
          [=] { half_norm_backward(in.grad, in.x, in.gain, in.mean, in.scale, true); },
          [=] { half_norm_backward_definition(in.grad, in.x, in.gain, in.mean, in.scale, true); }};
}

struct SearchInputs {
  Tensor query, keys1, keys2;
  explicit SearchInputs(const CaseSize& s)
      : query(torch::randn({s.T, s.H, 2, s.w})),
        keys1(torch::randn({s.H, s.n, s.w})),
        keys2(torch::randn({s.H, s.n, s.w})) {}
};

Case search_case(const CaseSize& s) {
  const SearchInputs in(s);
  const int64_t A = s.n * s.n, K = s.K;
  return {"search",
          search_size(s),
          Bound::products,
          count({s.T, s.H, 2 * s.w * 4 + s.K * 12}) + count({2, s.H, s.n, s.w, 4}),
          count({2, s.T, s.H, 2, s.n, s.w}),
          [=] { product_key_search(in.query, in.keys1, in.keys2, K, A); },
          [=] { product_key_search_definition(in.query, in.keys1, in.keys2, K, A); }};
}

Case search_backward_case(const CaseSize& s) {
  const SearchInputs in(s);
  const Tensor index = std::get<1>(product_key_search(in.query, in.keys1, in.keys2, s.K, s.n * s.n));
  const Tensor grad = torch::randn({s.T, s.H, s.K});
  return {"search_backward",
          search_size(s),
          Bound::stream,
          count({s.T, s.H, 4 * s.w * 4 + s.K * 12}) + count({4, s.H, s.n, s.w, 4}),
          0,
          [=] { product_key_search_backward(grad, index, in.query, in.keys1, in.keys2); },
          [=] { search_backward_definition(grad, index, in.query, in.keys1, in.keys2); }};
}

using MakeCases = std::function<std::vector<Case>()>;

MakeCases for_all_sizes(Case (*make)(const CaseSize&)) {
  return [make] {
    std::vector<Case> list;
    for (const CaseSize& s : kSizes) list.push_back(make(s));
    return list;
  };
}

// All but the one token of generation.
MakeCases for_training_sizes(Case (*make)(const CaseSize&)) {
  return [make] {
    std::vector<Case> list;
    for (const CaseSize& s : kSizes) {
      if (s.T > 1) list.push_back(make(s));
    }
    return list;
  };
}

std::vector<Case> read_cases() {
  std::vector<Case> list;
  for (const CaseSize& s : kSizes) {
    list.push_back(read_case(s, torch::kFloat, "float32"));
    list.push_back(read_case(s, torch::kBFloat16, "bfloat16"));
  }
  return list;
}

std::vector<Case> few_linear_cases() {
  std::vector<Case> list;
  for (const int64_t T : {1, 4}) {
    for (const auto& [d, O] : {std::pair{128, 512}, {256, 1024}, {512, 512}, {512, 2048}, {2048, 512}, {512, 32000}}) {
      list.push_back(few_linear_case(T, d, O));
    }
  }
  return list;
}

std::vector<Case> binary_cases() {
  std::vector<Case> list;
  for (const int64_t T : {128, 1}) {
    for (const bool packs : {true, false}) list.push_back(binary_case(T, 4096, 4096, packs));
  }
  return list;
}

const std::vector<std::pair<std::string, MakeCases>>& all_operators() {
  static const std::vector<std::pair<std::string, MakeCases>> all = {
      {"few_linear", few_linear_cases},
      {"binary", binary_cases},
      {"reels", reel_cases},
      {"bases", bases_cases},
      {"select", for_all_sizes(select_case)},
      {"search", for_all_sizes(search_case)},
      {"search_backward", for_training_sizes(search_backward_case)},
      {"select_lanes", for_training_sizes(select_lanes_case)},
      {"batch_norm", for_training_sizes(batch_norm_case)},
      {"batch_norm_backward", for_training_sizes(batch_norm_backward_case)},
      {"half_norm", for_all_sizes(half_norm_case)},
      {"half_norm_backward", for_training_sizes(half_norm_backward_case)},
      {"read", read_cases},
      {"project", for_training_sizes(project_case)},
      {"row_order", for_training_sizes(row_order_case)},
      {"row_sum", for_training_sizes(row_sum_case)},
      {"row_update", for_training_sizes(row_update_case)},
      {"row_step", [] { return std::vector<Case>{row_step_case(2048, 1 << 14), row_step_case(16384, 1 << 18)}; }},
      {"usage_add", for_all_sizes(usage_add_case)},
  };
  return all;
}

}  // namespace

std::vector<std::string> operator_names() {
  std::vector<std::string> names;
  for (const auto& [name, make] : all_operators()) names.push_back(name);
  return names;
}

std::vector<Case> cases_of(const std::string& name) {
  torch::manual_seed(0);
  for (const auto& [known, make] : all_operators()) {
    if (known == name) return make();
  }
  return {};
}

}  // namespace loci::bench
