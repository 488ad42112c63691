// Legend: B batch, C channels, I inner width, N positions of a query's window, M those of its keys.
#include "loci/nn/relation/non_local.h"

#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <torch/torch.h>

#include "loci/base/check.h"
#include "tests/op_harness.h"

namespace loci::non_local_test {
namespace {

using harness::same_bits;
using ::testing::HasSubstr;
using torch::Tensor;

constexpr int64_t kChannels = 6;

using Change = std::function<void(NonLocalOptions&)>;

NonLocalOptions small_options(int64_t dimensions, const Change& change) {
  NonLocalOptions options;
  options.channels = kChannels;
  options.dimensions = dimensions;
  options.inner = 4;
  if (change) change(options);
  return options;
}

// Its parameters are away from their neutral starts.
std::shared_ptr<NonLocal> moved_block(int64_t dimensions, const Change& change = {},
                                      at::ScalarType type = at::kDouble) {
  auto block = std::make_shared<NonLocal>("block", small_options(dimensions, change), 7);
  block->to(type);
  const torch::NoGradGuard guard;
  torch::manual_seed(5);
  for (auto& parameter : block->parameters()) parameter.add_(torch::randn_like(parameter), 0.3);
  return block;
}

Tensor embedding(const Tensor& map, const Tensor& weight, const Tensor& bias) {  // map [C, T, H, W]
  return torch::einsum("ic,cthw->ithw", {weight, map}) + bias.view({-1, 1, 1, 1});
}

bool sees(const NonLocalOptions& o, const std::array<int64_t, 3>& query, const std::array<int64_t, 3>& key) {
  const MapExtents kernel = o.kernel();
  for (size_t i = 0; i < 3; ++i) {
    const int64_t place = key[i] * kernel[i];
    if (o.domain == PairDomain::space && i == 0 && place != query[i]) return false;
    if (o.domain == PairDomain::time && i > 0 && place != query[i]) return false;
    if (o.domain == PairDomain::groups && i == 0 && place / o.group != query[i] / o.group) return false;
    if (o.domain == PairDomain::window && place / o.window[i] != query[i] / o.window[i]) return false;
  }
  return true;
}

// z without a norm, query by query and key by key.
Tensor looped_sample(const NonLocal& block, const Tensor& x) {  // [C, T, H, W]
  const NonLocalOptions& o = block.options();
  const MapExtents kernel = o.kernel();
  const auto pool = [&](const Tensor& map) { return torch::max_pool3d(map.unsqueeze(0), kernel, kernel)[0]; };
  const bool before = o.pool == PairPool::before, after = o.pool == PairPool::after;
  const Tensor source = before ? pool(x) : x;
  const auto of_source = [&](const Tensor& map) { return after ? pool(map) : map; };
  const Tensor g = of_source(embedding(source, block.g_weight, block.g_bias));
  const bool gaussian = o.form == PairForm::gaussian;
  const Tensor theta = gaussian ? x : embedding(x, block.theta_weight, block.theta_bias);
  const Tensor phi = of_source(gaussian ? source : embedding(source, block.phi_weight, block.phi_bias));
  const double scale =
      o.form == PairForm::embedded && o.scale == PairScale::rsqrt ? 1 / std::sqrt(static_cast<double>(o.inner)) : 1;
  const auto rows = [](const Tensor& map) { return map.flatten(1).t().contiguous(); };  // [positions, numbers]
  const Tensor query_rows = rows(theta), key_rows = rows(phi), value_rows = rows(g);
  const Tensor sums = torch::zeros({query_rows.size(0), g.size(0)}, torch::kDouble);
  const int64_t I = theta.size(0), V = g.size(0);
  const double* w = o.form == PairForm::concat ? block.concat_weight.const_data_ptr<double>() : nullptr;
  const auto place = [](const Tensor& map, int64_t i) -> std::array<int64_t, 3> {
    return {i / (map.size(2) * map.size(3)), i / map.size(3) % map.size(2), i % map.size(3)};
  };
  for (int64_t i = 0; i < query_rows.size(0); ++i) {
    const double* q = query_rows.const_data_ptr<double>() + i * I;
    double* sum = sums.mutable_data_ptr<double>() + i * V;
    double total = 0;
    int64_t count = 0;
    for (int64_t j = 0; j < key_rows.size(0); ++j) {
      if (!sees(o, place(theta, i), place(phi, j))) continue;
      const double *k = key_rows.const_data_ptr<double>() + j * I, *v = value_rows.const_data_ptr<double>() + j * V;
      double f = 0;
      for (int64_t c = 0; c < I; ++c) f += w != nullptr ? w[c] * q[c] + w[I + c] * k[c] : q[c] * k[c] * scale;
      if (o.form == PairForm::concat) f = std::max(f, 0.0);
      if (gaussian || o.form == PairForm::embedded) f = std::exp(f);
      total += f;
      ++count;
      for (int64_t c = 0; c < V; ++c) sum[c] += f * v[c];
    }
    const double z = gaussian || o.form == PairForm::embedded ? total : static_cast<double>(count);
    for (int64_t c = 0; c < V; ++c) sum[c] /= z;
  }
  const Tensor y = sums.t().reshape({V, x.size(1), x.size(2), x.size(3)});
  return x + embedding(y, block.output_weight, block.output_bias);
}

struct DomainCase {
  const char* name;
  Change change;
};

std::vector<DomainCase> domain_cases() {
  return {{"spacetime", {}},
          {"space", [](auto& o) { o.domain = PairDomain::space; }},
          {"time",
           [](auto& o) {
             o.domain = PairDomain::time;
             o.pool_kernel = {2, 1, 1};
           }},
          {"groups",
           [](auto& o) {
             o.domain = PairDomain::groups;
             o.group = 2;
           }},
          {"window of whole rows",
           [](auto& o) {
             o.domain = PairDomain::window;
             o.window = {2, 2, 5};
           }},
          {"window", [](auto& o) {
             o.domain = PairDomain::window;
             o.window = {2, 2, 1};
             o.pool_kernel = {1, 2, 1};
           }}};
}

constexpr PairForm kForms[] = {PairForm::gaussian, PairForm::embedded, PairForm::dot, PairForm::concat};

TEST(NonLocal, EveryFormPoolAndDomainIsTheLoop) {
  torch::manual_seed(0);
  const torch::NoGradGuard guard;
  const Tensor x = torch::randn({2, kChannels, 4, 4, 5}, torch::kDouble) * 0.5;
  for (const auto& domain : domain_cases()) {
    for (const PairForm form : kForms) {
      for (const PairPool pool : {PairPool::none, PairPool::before, PairPool::after}) {
        const auto block = moved_block(3, [&](NonLocalOptions& o) {
          o.form = form;
          o.pool = pool;
          o.norm = PairNorm::none;
          if (domain.change) domain.change(o);
        });
        SCOPED_TRACE(::testing::Message()
                     << domain.name << " form " << static_cast<int>(form) << " pool " << static_cast<int>(pool));
        const Tensor z = block->forward(x);
        for (int64_t b = 0; b < 2; ++b) {
          EXPECT_TRUE(torch::allclose(z[b], looped_sample(*block, x[b]), 1e-12, 1e-12));
        }
        EXPECT_TRUE(torch::allclose(block->forward_with_map(x).first, z, 1e-12, 1e-12));
      }
    }
  }
}

TEST(NonLocal, MapsOfFewerDimensionsAreThoseOfThree) {
  torch::manual_seed(1);
  const torch::NoGradGuard guard;
  const auto line = moved_block(1), flat = moved_block(2), wide = moved_block(3);
  const Tensor x = torch::randn({2, kChannels, 1, 6, 7}, torch::kDouble);
  EXPECT_TRUE(torch::equal(flat->forward(x.squeeze(2)), wide->forward(x).squeeze(2)));
  const auto row = moved_block(2, [](auto& o) { o.pool_kernel = {1, 2}; });
  const Tensor first = x.narrow(3, 0, 1).squeeze(2);  // [2, C, 1, 7]
  EXPECT_TRUE(torch::equal(line->forward(first.squeeze(2)), row->forward(first).squeeze(2)));
}

TEST(NonLocal, InsertedItReturnsItsInputBitForBitInItsLayout) {
  torch::manual_seed(2);
  const torch::NoGradGuard guard;
  for (const PairNorm norm : {PairNorm::batch, PairNorm::frozen, PairNorm::none}) {
    NonLocal block("block", small_options(2, [&](auto& o) { o.norm = norm; }), 3);
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      const Tensor x = torch::randn({3, kChannels, 5, 4}).contiguous(format);
      for (const bool training : {true, false}) {
        block.train(training);
        const Tensor z = block.forward(x);
        EXPECT_TRUE(same_bits(z, x));
        EXPECT_EQ(z.strides(), x.strides());
      }
    }
  }
}

TEST(NonLocal, LayoutsGiveTheSameNumbers) {
  torch::manual_seed(3);
  const torch::NoGradGuard guard;
  const auto block = moved_block(3, {}, at::kFloat);
  const Tensor x = torch::randn({2, kChannels, 4, 6, 5});
  const Tensor z = block->forward(x), last = block->forward(x.contiguous(at::MemoryFormat::ChannelsLast3d));
  EXPECT_TRUE(same_bits(last.contiguous(), z));
  EXPECT_TRUE(last.is_contiguous(at::MemoryFormat::ChannelsLast3d));
}

TEST(NonLocal, HasFiniteDifferences) {
  for (const PairForm form : kForms) {
    for (const PairPool pool : {PairPool::before, PairPool::after}) {
      const auto block = moved_block(2, [&](NonLocalOptions& o) {
        o.form = form;
        o.pool = pool;
        o.inner = 2;
      });
      std::vector<Tensor> inputs = {torch::randn({2, kChannels, 3, 2}, torch::kDouble).requires_grad_()};
      for (const Tensor& parameter : block->parameters()) {
        inputs.push_back(parameter.detach().clone().set_requires_grad(true));
      }
      harness::expect_finite_differences(
          [&](const std::vector<Tensor>& given) {
            auto parameters = block->named_parameters();
            for (size_t i = 0; i + 1 < given.size(); ++i) {
              const std::string& name = parameters[i].key();
              Tensor* const members[] = {&block->theta_weight,  &block->theta_bias,    &block->phi_weight,
                                         &block->phi_bias,      &block->g_weight,      &block->g_bias,
                                         &block->concat_weight, &block->output_weight, &block->output_bias,
                                         &block->norm.gain,     &block->norm.bias};
              const char* const names[] = {"theta_weight", "theta_bias", "phi_weight",    "phi_bias",
                                           "g_weight",     "g_bias",     "concat_weight", "output_weight",
                                           "output_bias",  "norm_gain",  "norm_bias"};
              for (size_t m = 0; m < std::size(members); ++m) {
                if (name == names[m]) *members[m] = given[i + 1];
              }
            }
            return block->forward(given[0]);
          },
          inputs);
    }
  }
}

TEST(NonLocal, ItsMapSumsToOneAndMasksKeys) {
  torch::manual_seed(4);
  const torch::NoGradGuard guard;
  const Tensor x = torch::randn({2, kChannels, 4, 5}, torch::kDouble);
  Tensor mask = torch::rand({20, 4}) < 0.5;
  mask[3].fill_(false);
  mask[4].fill_(true);
  for (const PairForm form : kForms) {
    const auto block = moved_block(2, [&](auto& o) {
      o.form = form;
      o.norm = PairNorm::none;
    });
    const auto [all, map] = block->forward_with_map(x);
    EXPECT_EQ(map.sizes(), (std::vector<int64_t>{2, 20, 4}));
    if (form == PairForm::embedded) {
      EXPECT_TRUE(torch::allclose(map.sum(-1), torch::ones({2, 20}, torch::kDouble)));
    }
    const auto [z, masked] = block->forward_with_map(x, mask);
    EXPECT_TRUE(same_bits(block->forward(x, mask), z));
    EXPECT_FALSE(masked.masked_select(mask.logical_not()).any().item<bool>());
    EXPECT_TRUE(torch::allclose(masked.select(1, 4), map.select(1, 4), 1e-12, 1e-12));
    const Tensor shift = block->output_bias.view({1, kChannels});  // y = 0: the output map's bias alone
    EXPECT_TRUE(torch::allclose(z.flatten(2).select(2, 3), x.flatten(2).select(2, 3) + shift));
    // A query's own keys alone: what a block with these keys computes.
    const Tensor row = map.select(1, 5) * mask[5];
    const bool softmax = form == PairForm::gaussian || form == PairForm::embedded;
    const Tensor expected = softmax ? row / row.sum(-1, true) : row * 4 / mask[5].sum();
    EXPECT_TRUE(torch::allclose(masked.select(1, 5), expected, 1e-10, 1e-12));
  }
}

// Frames in another order: the same answer in that order. A block knows no order.
TEST(NonLocal, PermutesWithItsFrames) {
  torch::manual_seed(5);
  const torch::NoGradGuard guard;
  const Tensor x = torch::randn({2, kChannels, 5, 4, 4}, torch::kDouble);
  const Tensor order = torch::tensor({3, 0, 4, 1, 2});
  for (const PairForm form : kForms) {
    const auto block = moved_block(3, [&](auto& o) { o.form = form; });
    const Tensor z = block->forward(x).index_select(2, order), moved = block->forward(x.index_select(2, order));
    EXPECT_TRUE(torch::allclose(moved, z, 1e-10, 1e-12));
  }
}

TEST(NonLocal, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(6);
  const Tensor x = torch::randn({2, kChannels, 24, 24});
  for (const PairForm form : kForms) {
    const auto block = moved_block(2, [&](auto& o) { o.form = form; }, at::kFloat);
    harness::expect_same_bits_for_any_thread_count([&] {
      std::vector<Tensor> leaves = block->parameters(), wanted = leaves;
      const Tensor z = block->forward(x);
      std::vector<Tensor> results = torch::autograd::grad({z.square().sum()}, leaves);
      results.push_back(z.detach());
      return results;
    });
  }
}

TEST(NonLocal, TakesBfloat16AutocastOnePositionAndNoSample) {
  torch::manual_seed(7);
  const torch::NoGradGuard guard;
  for (const PairForm form : kForms) {
    const auto change = [&](auto& o) { o.form = form; };
    const auto block = moved_block(2, change, at::kFloat);
    const Tensor x = torch::randn({2, kChannels, 4, 4});
    block->eval();
    const Tensor z = block->forward(x);
    at::autocast::set_autocast_enabled(at::kCPU, true);
    const Tensor mixed = block->forward(x);
    at::autocast::set_autocast_enabled(at::kCPU, false);
    EXPECT_EQ(mixed.scalar_type(), torch::kFloat);
    EXPECT_LT((mixed - z).abs().max().item<double>(), 0.1);
    const auto small = moved_block(2, change, at::kBFloat16);
    EXPECT_EQ(small->forward(x.to(at::kBFloat16)).scalar_type(), at::kBFloat16);
    EXPECT_EQ(block->forward(torch::zeros({0, kChannels, 4, 4})).sizes(), (std::vector<int64_t>{0, kChannels, 4, 4}));
    const auto single = moved_block(2, [&](auto& o) {
      o.form = form;
      o.pool = PairPool::none;
    });
    EXPECT_TRUE(single->forward(torch::randn({2, kChannels, 1, 1}, torch::kDouble)).isfinite().all().item<bool>());
  }
}

TEST(NonLocal, FrozenNormKeepsItsStatistics) {
  const auto frozen = moved_block(2, [](auto& o) { o.norm = PairNorm::frozen; }), batch = moved_block(2);
  const Tensor x = torch::randn({2, kChannels, 4, 4}, torch::kDouble);
  frozen->forward(x);
  batch->forward(x);
  EXPECT_FALSE(frozen->norm.running_mean.any().item<bool>());
  EXPECT_TRUE(batch->norm.running_mean.any().item<bool>());
}

TEST(NonLocal, StandsInASequence) {
  torch::nn::Sequential net(NonLocal("block", small_options(2, {}), 1), torch::nn::ReLU());
  EXPECT_EQ(net->forward(torch::randn({2, kChannels, 4, 4})).sizes(), (std::vector<int64_t>{2, kChannels, 4, 4}));
}

TEST(NonLocal, RefusesWhatWouldNeverMoveAndBadInput) {
  NonLocal block("block", small_options(2, {}), 1);
  const auto message = [&](const Tensor& x, const Tensor& mask = {}) {
    return harness::message_of([&] { block.forward(x, mask); });
  };
  const Tensor x = torch::randn({2, kChannels, 4, 4});
  EXPECT_THAT(message(x[0]), HasSubstr("NonLocal: x must be [B, C, height, width] of a floating type with C = 6, got"));
  EXPECT_THAT(message(x.narrow(1, 0, 5)), HasSubstr("with C = 6, got [2, 5, 4, 4] of Float"));
  EXPECT_THAT(message(x, torch::ones({16, 3}, torch::kBool)),
              HasSubstr("NonLocal: mask must be bool [16, 4], got Bool [16, 3]"));
  NonLocal cut("block",
               small_options(2,
                             [](auto& o) {
                               o.domain = PairDomain::window;
                               o.window = {2, 2};
                             }),
               1);
  EXPECT_THAT(harness::message_of([&] { cut.forward(x, torch::ones({16, 4}, torch::kBool)); }),
              HasSubstr("NonLocal: a mask must come with domain spacetime, got another domain"));
  EXPECT_THAT(message(x.narrow(2, 0, 1)), HasSubstr("height must be at least the pooling kernel's 2, got 1"));
  const torch::NoGradGuard guard;
  block.output_weight.zero_();
  EXPECT_THAT(message(x), HasSubstr("NonLocal: W_z must not be 0 while the norm's scale is 0"));
  block.eval();
  EXPECT_EQ(message(x), "");
}

}  // namespace
}  // namespace loci::non_local_test
