#include "loci/nn/memory/ngram_memory.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/nn/initialise.h"
#include "loci/nn/memory/memory_formula.h"
#include "loci/nn/token_mask.h"
#include "loci/ops/few_linear/few_linear.h"
#include "loci/table/torch_errors.h"

namespace loci {
namespace {

using at::Tensor;

constexpr double kGateEpsilon = 1e-5;

Tensor rms_normed(const Tensor& x, const Tensor& gain) {
  return at::rms_norm(x, {x.size(-1)}, gain.to(x.scalar_type()), kGateEpsilon);
}

Tensor linear_of(const Tensor& x, const Tensor& weight) {
  return linear_map(as_parameter(x, weight), weight);
}

NgramRows addresses_of(const NgramMemoryOptions& options, const TablePtr& table, int64_t vocabulary,
                       const std::string& name, uint64_t seed) {
  if (!table) fail(ExitCode::usage, "NgramMemory", "table must be given", "none");
  const uint64_t own = CounterRandom(seed, name).bits(0);
  return ngram_rows(options.orders, options.hash_heads, table->rows(), vocabulary, own);
}

void check_ngram_options(const NgramMemoryOptions& o, const Table& table, int64_t columns) {
  const auto refuse = [](const std::string& expected, const std::string& got) {
    fail(ExitCode::usage, "NgramMemory", expected, got);
  };
  if (o.width < 1) refuse("width must be at least 1", std::to_string(o.width));
  if (o.injection == NgramInjection::sum && table.width() != o.width) {
    refuse(fmt::format("the table's width must be {} (the layer's) for injection sum", o.width),
           std::to_string(table.width()));
  }
  if (o.injection == NgramInjection::row && (columns != 1 || o.orders.front() != 1)) {
    refuse("orders must be [1] with one head for injection row", fmt::format("{} rows a token", columns));
  }
  if (o.convolution && o.injection != NgramInjection::gate) {
    refuse("convolution must be false unless injection is gate", "true");
  }
}

}  // namespace

void NgramMemoryOptions::fields(ConfigFields& f) {
  f.choice("injection", injection, "how rows enter: their sum, gated by the input (Engram), or as a gated layer (STEM)",
           {{"sum", NgramInjection::sum}, {"gate", NgramInjection::gate}, {"row", NgramInjection::row}});
  f.field("orders", orders, "how many of the last tokens name a row, for each kind of row",
          {.minimum = 1, .maximum = kLongestNgram});
  f.field("hash_heads", hash_heads, "rows of an order; order 1 has one where its rows hold the vocabulary",
          {.minimum = 1, .maximum = 1 << 10});
  f.when(injection == NgramInjection::gate, "model.ngram.injection is \"gate\"",
         [&] { f.field("convolution", convolution, "a causal convolution by channel over what was read"); });
}

NgramMemory::NgramMemory(const std::string& name, NgramMemoryOptions options, TablePtr table, int64_t vocabulary,
                         uint64_t seed)
    : TableLayer("NgramMemory"),
      options_(std::move(options)),
      table_(std::move(table)),
      rows_(addresses_of(options_, table_, vocabulary, name, seed)) {
  check_ngram_options(options_, *table_, columns());
  use_ = table_->register_use();
  const int64_t d = options_.width, D = table_->width();
  const auto matrix = [&](const char* parameter, int64_t rows, int64_t from) {
    const double std = 1 / std::sqrt(static_cast<double>(from));
    return register_parameter(parameter, normal_start(seed, name + "." + parameter, {rows, from}, std));
  };
  const auto gain = [&](const char* parameter) { return register_parameter(parameter, at::ones({d})); };
  switch (options_.injection) {
    case NgramInjection::sum:
      break;
    case NgramInjection::gate:
      key_weight = matrix("key_weight", d, columns() * D);
      value_weight = matrix("value_weight", d, columns() * D);
      input_gain = gain("input_gain");
      key_gain = gain("key_gain");
      if (!options_.convolution) break;
      convolution_gain = gain("convolution_gain");
      convolution_weight = register_parameter("convolution_weight", at::zeros({d, 1, kTaps}));
      break;
    case NgramInjection::row:
      gate_weight = matrix("gate_weight", D, d);
      output_weight = matrix("output_weight", d, D);
      break;
  }
}

Tensor NgramMemory::forward(const Tensor& x, const Tensor& rows, const BlockContext& context, Tensor* history) {
  const int64_t d = options_.width;
  TORCH_CHECK(x.dim() == 3 && x.size(2) == d && x.is_floating_point(), name(), ": x must be floating [B, L, ", d,
              "], got ", x.scalar_type(), " ", x.sizes());
  TORCH_CHECK(rows.sizes() == at::IntArrayRef({x.size(0), x.size(1), columns()}), name(), ": rows must be [", x.size(0),
              ", ", x.size(1), ", ", columns(), "], got ", rows.sizes());
  const int64_t tokens = x.size(0) * x.size(1);
  const Tensor positions = valid_positions(name(), tokens, context);
  const Tensor index = take_tokens(rows.reshape({tokens, columns()}), positions);
  Tensor y = injected(take_tokens(x.reshape({tokens, d}), positions), read(index));
  y = put_tokens(y.to(x.scalar_type()), positions, tokens).view(x.sizes());
  if (!convolution_weight.defined()) return y;
  y = y + convolved(y, history);
  return positions.defined() ? y * context.token_mask.reshape({x.size(0), x.size(1), 1}) : y;
}

Tensor NgramMemory::read(const Tensor& index) {
  const int64_t tokens = index.size(0);
  const bool concatenated = options_.injection == NgramInjection::gate;
  const Tensor reads = concatenated ? index.reshape({tokens * columns(), 1}) : index;
  const Tensor weight = at::ones(reads.sizes(), index.options().dtype(table_->sum_dtype()));
  Tensor read = table_->read(reads, weight, use_);
  if (concatenated) read = read.view({tokens, columns() * table_->width()});
  const Tensor one_head = weight.view({tokens, 1, columns()});
  tell_observers({read, one_head, index.unsqueeze(1), one_head});
  return read;
}

Tensor NgramMemory::injected(const Tensor& x, const Tensor& read) const {
  if (options_.injection == NgramInjection::sum) return read;
  if (options_.injection == NgramInjection::gate) return gated(x, read);
  const Tensor gate = at::gelu(linear_of(x, gate_weight));  // [T, D]
  return linear_of(gate * read.to(gate.scalar_type()), output_weight);
}

Tensor NgramMemory::gated(const Tensor& x, const Tensor& read) const {
  const Tensor key = linear_of(read, key_weight).to(x.scalar_type());
  const Tensor value = linear_of(read, value_weight).to(x.scalar_type());
  const Tensor product = rms_normed(x, input_gain) * rms_normed(key, key_gain);  // [T, d]
  const Tensor score = product.sum(-1, /*keepdim=*/true) / std::sqrt(static_cast<double>(options_.width));
  return at::sigmoid(score.sign() * score.abs().clamp_min(1e-6).sqrt()) * value;
}

Tensor NgramMemory::convolved(const Tensor& u, Tensor* history) const {
  const int64_t dilation = rows_.longest(), before = (kTaps - 1) * dilation, length = u.size(1);
  const Tensor fresh = rms_normed(u, convolution_gain);
  const bool continued = history != nullptr && history->defined();
  const Tensor all =  // [B, before + L, d]
      continued ? at::cat({*history, fresh}, 1) : at::constant_pad_nd(fresh, {0, 0, before, 0});
  if (history != nullptr) *history = all.narrow(1, length, before);
  const Tensor weight = convolution_weight.to(u.scalar_type());
  Tensor sum;
  for (int64_t tap = 0; tap < kTaps; ++tap) {
    const Tensor term = all.narrow(1, before - tap * dilation, length) * weight.select(2, tap).squeeze(1);
    sum = sum.defined() ? sum + term : term;
  }
  return at::silu(sum);
}

// For the module in Python: multipliers [n], the orders of the K columns, modulus and offset [K], those of a layer of
// this seed and name.
TORCH_LIBRARY_FRAGMENT(loci, m) {
  m.def(
      "ngram_rows(int[] orders, int hash_heads, int rows, int vocabulary, int seed, str name) -> (Tensor, int[], "
      "Tensor, Tensor)",
      [](const std::vector<int64_t>& orders, int64_t hash_heads, int64_t rows, int64_t vocabulary, int64_t seed,
         const std::string& name) {
        return with_torch_errors([&] {
          const uint64_t own = CounterRandom(static_cast<uint64_t>(seed), name).bits(0);
          const NgramRows found = ngram_rows(orders, hash_heads, rows, vocabulary, own);
          return std::make_tuple(found.multipliers, found.orders, found.modulus, found.offset);
        });
      });
}

}  // namespace loci
