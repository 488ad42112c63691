// Legend: B batch, L positions, d width, K columns, D width of a row.
#include "loci/nn/memory/ngram_memory.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <functional>
#include <sstream>

#include "loci/base/check.h"
#include "loci/table/local_table.h"
#include "loci/table/row_store.h"
#include "loci/table/usage.h"
#include "tests/op_harness.h"
#include "tests/temporary_folder.h"

namespace loci::ngram_memory_test {
namespace {

using at::Tensor;

constexpr int64_t kVocabulary = 30, kWidth = 12;

struct NgramCase {
  NgramInjection injection;
  std::vector<int64_t> orders;
  int64_t hash_heads, row_width;
  bool convolution = false;
};

const std::vector<NgramCase> kNgramCases = {{NgramInjection::sum, {1, 2, 3}, 1, kWidth},
                                            {NgramInjection::sum, {2, 4}, 2, kWidth},
                                            {NgramInjection::gate, {1, 2, 3}, 1, 5},
                                            {NgramInjection::gate, {2, 3}, 2, 3, true},
                                            {NgramInjection::row, {1}, 1, 7}};

struct NgramParts {
  TablePtr table;
  std::shared_ptr<NgramMemory> layer;
};

NgramParts make_ngram_parts(const NgramCase& c, at::ScalarType dtype = at::kFloat) {
  auto table = std::make_shared<LocalTable>("rows", 200, c.row_width, LocalTableOptions{.dtype = dtype});
  NgramMemoryOptions options;
  options.width = kWidth;
  options.injection = c.injection;
  options.orders = c.orders;
  options.hash_heads = c.hash_heads;
  options.convolution = c.convolution;
  auto layer = std::make_shared<NgramMemory>("ngram", options, table, kVocabulary, 3);
  if (dtype == at::kDouble) layer->to(at::kDouble);
  return {table, layer};
}

void fill(const NgramParts& parts) {
  const torch::NoGradGuard guard;
  parts.table->store().initialise_normal(5, 0.7);
  if (parts.layer->convolution_weight.defined()) parts.layer->convolution_weight.normal_();
  for (const auto& p : parts.layer->named_parameters()) {
    if (p.key().ends_with("gain")) p.value().add_(0.3 * torch::randn_like(p.value()));
  }
}

struct NgramBatch {
  Tensor x, tokens, starts;
};

NgramBatch some_batch(int64_t batch, int64_t length, at::ScalarType dtype = at::kFloat) {
  torch::manual_seed(1);
  return {torch::randn({batch, length, kWidth}, dtype), torch::randint(kVocabulary, {batch, length}, at::kLong),
          torch::rand({batch, length}).lt(0.1)};
}

Tensor run(const NgramParts& parts, const NgramBatch& b, const BlockContext& context = {}) {
  return parts.layer->forward(b.x, parts.layer->rows(b.tokens, b.starts), context);
}

// The formulas of ngram_memory.h over whole tensors; `values` [R, D] stands for the table.
Tensor reference_ngram(const NgramMemory& m, const NgramBatch& b, const Tensor& values) {
  const auto rms = [](const Tensor& a, const Tensor& gain) {
    return a / (a.pow(2).mean(-1, true) + 1e-5).sqrt() * gain;
  };
  const Tensor read = values.index({m.rows(b.tokens, b.starts)});  // [B, L, K, D]
  if (m.options().injection == NgramInjection::sum) return read.sum(2);
  if (m.options().injection == NgramInjection::row) {
    const Tensor h = at::matmul(b.x, m.gate_weight.t());
    return at::matmul(0.5 * h * (1 + (h / std::sqrt(2.0)).erf()) * read.select(2, 0), m.output_weight.t());
  }
  const Tensor e = read.flatten(2), k = at::matmul(e, m.key_weight.t()), v = at::matmul(e, m.value_weight.t());
  const Tensor s = (rms(b.x, m.input_gain) * rms(k, m.key_gain)).sum(-1, true) / std::sqrt(double(kWidth));
  const Tensor u = v / (1 + (-s.sgn() * s.abs().clamp_min(1e-6).sqrt()).exp());
  if (!m.options().convolution) return u;
  const Tensor a = rms(u, m.convolution_gain).transpose(1, 2);  // [B, d, L]
  const int64_t dilation = m.addresses().longest();
  const Tensor kernel = m.convolution_weight.flip(2);  // conv1d counts its taps from the past
  const Tensor c =
      at::conv1d(at::constant_pad_nd(a, {3 * dilation, 0}, 0), kernel, {}, 1, at::IntArrayRef{0}, dilation, kWidth);
  return u + (c / (1 + (-c).exp())).transpose(1, 2);
}

TEST(NgramMemory, EqualsAPlainCompositionWithGradients) {
  for (const NgramCase& c : kNgramCases) {
    const NgramParts parts = make_ngram_parts(c, at::kDouble);
    fill(parts);
    NgramBatch b = some_batch(3, 11, at::kDouble);
    b.x.set_requires_grad(true);
    const Tensor values = parts.table->store().values().detach().clone().set_requires_grad(true);
    const Tensor y = run(parts, b), expected = reference_ngram(*parts.layer, b, values);
    EXPECT_TRUE(torch::allclose(y, expected, 1e-10, 1e-11));
    const Tensor cotangent = torch::randn_like(y);
    std::vector<Tensor> leaves = parts.layer->parameters();
    if (c.injection != NgramInjection::sum) leaves.push_back(b.x);
    std::vector<Tensor> with_values = leaves;
    with_values.push_back(values);
    const auto theirs = torch::autograd::grad({expected}, with_values, {cotangent});
    parts.table->store().references().clear();
    b.x.mutable_grad().reset();
    y.backward(cotangent);
    for (size_t i = 0; i < leaves.size(); ++i) EXPECT_TRUE(torch::allclose(leaves[i].grad(), theirs[i], 1e-8, 1e-10));
    const RowGradient rows = parts.table->store().references().sum();
    const Tensor whole = at::zeros_like(values).detach().index_copy(0, rows.row, rows.gradient);
    EXPECT_TRUE(torch::allclose(whole, theirs.back(), 1e-9, 1e-11));
  }
}

TEST(NgramMemory, RowsOfZeroAddNothingAndMoveFirst) {
  for (const NgramCase& c : kNgramCases) {
    const NgramParts parts = make_ngram_parts(c);
    const NgramBatch b = some_batch(2, 9);
    const Tensor y = run(parts, b);
    EXPECT_TRUE(torch::equal(y, at::zeros_like(y)));
    y.sum().backward();
    EXPECT_GT(parts.table->store().references().sum().gradient.abs().max().item<double>(), 0);
  }
}

TEST(NgramMemory, WhatIsMaskedReadsNothing) {
  for (const NgramCase& c : kNgramCases) {
    const NgramParts parts = make_ngram_parts(c);
    fill(parts);
    const NgramBatch b = some_batch(2, 9);
    BlockContext context;
    context.token_mask = torch::ones({2, 9}, at::kBool);
    const Tensor whole = run(parts, b);
    EXPECT_TRUE(torch::equal(run(parts, b, context), whole));
    context.token_mask.index_put_({1, torch::indexing::Slice(6)}, false);
    const auto usage = std::make_shared<Usage>(200);
    Tensor part;
    {
      const ObserverScope counting(*parts.layer, usage);
      part = run(parts, b, context);
    }
    EXPECT_EQ(usage->metrics().reads, 15 * parts.layer->columns());
    EXPECT_TRUE(torch::equal(part[1].slice(0, 6), at::zeros({3, kWidth})));
    EXPECT_TRUE(torch::allclose(part[0], whole[0], 1e-5, 1e-6));
    EXPECT_TRUE(torch::allclose(part[1].slice(0, 0, 6), whole[1].slice(0, 0, 6), 1e-5, 1e-6));
  }
}

TEST(NgramMemory, ObserversAreToldOneHeadOfWeightOne) {
  struct Last : ReadObserver {
    MemoryReads told;
    void reads(const MemoryReads& reads) override { told = reads; }
  };
  for (const NgramCase& c : kNgramCases) {
    const NgramParts parts = make_ngram_parts(c);
    const NgramBatch b = some_batch(2, 9);
    const auto last = std::make_shared<Last>();
    const ObserverScope watching(*parts.layer, last);
    run(parts, b);
    const int64_t columns = parts.layer->columns();
    EXPECT_TRUE(torch::equal(last->told.index, parts.layer->rows(b.tokens, b.starts).view({18, 1, columns})));
    EXPECT_TRUE(torch::equal(last->told.weight, at::ones({18, 1, columns})));
    EXPECT_FALSE(last->told.output.requires_grad());
  }
}

TEST(NgramMemory, InPartsWithAHistoryItGivesTheWhole) {
  for (const NgramCase& c : kNgramCases) {
    const NgramParts parts = make_ngram_parts(c, at::kDouble);
    fill(parts);
    const torch::NoGradGuard guard;
    const NgramBatch b = some_batch(2, 14, at::kDouble);
    const Tensor rows = parts.layer->rows(b.tokens, b.starts), whole = parts.layer->forward(b.x, rows);
    Tensor history;
    std::vector<Tensor> got;
    int64_t begin = 0;
    for (const int64_t count : {3, 1, 1, 7, 2}) {
      got.push_back(parts.layer->forward(b.x.narrow(1, begin, count), rows.narrow(1, begin, count), {}, &history));
      begin += count;
    }
    EXPECT_TRUE(torch::allclose(at::cat(got, 1), whole, 1e-11, 1e-12));
  }
}

TEST(NgramMemory, GivesTheSameBitsForAnyThreadCount) {
  for (const NgramCase& c : kNgramCases) {
    const NgramParts parts = make_ngram_parts(c);
    fill(parts);
    const NgramBatch b = some_batch(8, 64);
    harness::expect_same_bits_for_any_thread_count([&] {
      parts.table->store().references().clear();
      const Tensor y = run(parts, b);
      y.backward(at::ones_like(y));
      const RowGradient rows = parts.table->store().references().sum();
      return std::vector<Tensor>{rows.row, rows.gradient};
    });
  }
}

TEST(NgramMemory, SavesItsRowsWithItsParameters) {
  const NgramParts a = make_ngram_parts(kNgramCases[2]), b = make_ngram_parts(kNgramCases[2]);
  fill(a);
  std::stringstream file;
  torch::save(a.layer, file);
  auto layer = b.layer;
  torch::load(layer, file);
  const NgramBatch batch = some_batch(2, 9);
  EXPECT_TRUE(torch::equal(run(a, batch), run(b, batch)));
}

TEST(NgramMemory, BadArgumentsAreRefused) {
  const auto refused = [](const std::string& part, const std::function<void()>& make) {
    expect_error(ExitCode::usage, part, make);
  };
  refused("the table's width must be 12 (the layer's) for injection sum, got 5",
          [] { make_ngram_parts({NgramInjection::sum, {1}, 1, 5}); });
  refused("orders must be [1] with one head for injection row, got 2 rows a token",
          [] { make_ngram_parts({NgramInjection::row, {1, 2}, 1, 5}); });
  refused("orders must be [1]", [] { make_ngram_parts({NgramInjection::row, {2}, 1, 5}); });
  refused("convolution must be false unless injection is gate",
          [] { make_ngram_parts({NgramInjection::sum, {2}, 1, kWidth, true}); });
  refused("table must be given", [] { NgramMemory("ngram", {}, nullptr, 9, 0); });
  const NgramParts parts = make_ngram_parts(kNgramCases[0]);
  const NgramBatch b = some_batch(2, 9);
  const Tensor rows = parts.layer->rows(b.tokens, b.starts);
  const auto message = [&](const Tensor& x, const Tensor& index, const BlockContext& context) {
    return harness::message_of([&] { parts.layer->forward(x, index, context); });
  };
  EXPECT_THAT(message(b.x.narrow(2, 0, 5), rows, {}), testing::HasSubstr("x must be floating [B, L, 12]"));
  EXPECT_THAT(message(b.x, rows.narrow(1, 0, 8), {}), testing::HasSubstr("rows must be [2, 9, 3], got [2, 8, 3]"));
  BlockContext masked;
  masked.token_mask = torch::ones({4}, at::kBool);
  EXPECT_THAT(message(b.x, rows, masked), testing::HasSubstr("token_mask must be bool with 18 entries"));
}

}  // namespace
}  // namespace loci::ngram_memory_test
