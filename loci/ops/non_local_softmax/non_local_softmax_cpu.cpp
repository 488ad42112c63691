#include "loci/ops/non_local_softmax/non_local_softmax_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <memory>

#include "loci/ops/non_local_softmax/non_local_softmax_definition.h"
#include "loci/ops/non_local_softmax/non_local_softmax_kernel.h"
#include "loci/ops/operator.h"
#include "loci/ops/pair_check.h"
#include "loci/ops/pair_tiles.h"

// Legend: B batch, N queries, M keys, I inner width, V width of a value, R queries of a block.

namespace loci {

using at::Tensor;

namespace {

constexpr int64_t kForwardQueries = 128, kBackwardQueries = 256, kKeyPanel = 384, kRowPanel = 128;

bool has_softmax_blocks(const Tensor& x) {
  return x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
}

const NonLocalSoftmaxKernel& softmax_kernel(CpuLevel level) {
  return at_level(level, base::non_local_softmax_kernel, avx2::non_local_softmax_kernel,
                  avx512::non_local_softmax_kernel);
}

// Contiguous s [.., M] := its softmax.
void softmax_in_place(const Tensor& s, CpuLevel level) {
  const int64_t M = s.size(-1), rows = s.numel() / M;
  const auto scratch = std::make_unique_for_overwrite<float[]>(M);
  if (s.scalar_type() == at::kFloat) {
    softmax_kernel(level).float32.softmax(s.mutable_data_ptr<float>(), rows, M, scratch.get());
  } else {
    softmax_kernel(level).bfloat16.softmax(static_cast<uint16_t*>(s.mutable_data_ptr()), rows, M, scratch.get());
  }
}

// Contiguous dp := scale * p (dp - sum of p dp), row by row.
void softmax_gradient_in_place(const Tensor& p, const Tensor& dp, double scale, CpuLevel level) {
  const int64_t M = p.size(-1), rows = p.numel() / M;
  if (p.scalar_type() == at::kFloat) {
    softmax_kernel(level).float32.gradient(p.const_data_ptr<float>(), dp.mutable_data_ptr<float>(), rows, M,
                                           static_cast<float>(scale));
  } else {
    softmax_kernel(level).bfloat16.gradient(static_cast<const uint16_t*>(p.const_data_ptr()),
                                            static_cast<uint16_t*>(dp.mutable_data_ptr()), rows, M,
                                            static_cast<float>(scale));
  }
}

// The gradient of some samples. Blocks of queries come one after another, since all of them add to the gradients of
// keys and values; inside a block, panels of keys or of queries are tasks.
struct SoftmaxGradient {
  const Tensor &grad, &theta, &phi, &g;  // [samples, N or M, ..]
  const Tensor &d_theta, &d_phi, &d_g;   // float32 where they are summed over blocks
  double scale;
  CpuLevel level;
  bool tasks;  // whether panels run in parallel

  void run(int64_t count, const std::function<void(int64_t)>& work) const {
    if (tasks) return run_pair_tasks(count, work);
    for (int64_t i = 0; i < count; ++i) work(i);
  }

  void panels(int64_t size, int64_t most, const std::function<void(int64_t first, int64_t length)>& work) const {
    const int64_t width = even_tile(size, most);
    run((size + width - 1) / width, [&](int64_t i) { work(i * width, std::min(width, size - i * width)); });
  }

  // out [samples, n, m] := or += a b in out's type.
  static void add_product(const Tensor& out, const Tensor& a, const Tensor& b, bool add) {
    if (out.scalar_type() == a.scalar_type()) return product_into(out, a, b, 1, add);
    const Tensor part = at::empty(out.sizes(), a.options());
    product_into(part, a, b, 1);
    if (add) {
      out.add_(part);
    } else {
      out.copy_(part);
    }
  }

  void block(int64_t row, int64_t R, const Tensor& p, const Tensor& dp) const {
    const int64_t M = phi.size(1);
    const Tensor query = theta.narrow(1, row, R), dy = grad.narrow(1, row, R);
    panels(M, kKeyPanel, [&](int64_t first, int64_t length) {
      product_into(p.narrow(2, first, length), query, phi.narrow(1, first, length).transpose(1, 2), scale);
      product_into(dp.narrow(2, first, length), dy, g.narrow(1, first, length).transpose(1, 2), 1);
    });
    panels(R, kRowPanel, [&](int64_t first, int64_t length) {
      for (int64_t sample = 0; sample < p.size(0); ++sample) {
        const Tensor weights = p.select(0, sample).narrow(0, first, length);
        const Tensor ds = dp.select(0, sample).narrow(0, first, length);
        softmax_in_place(weights, level);
        softmax_gradient_in_place(weights, ds, scale, level);
      }
      product_into(d_theta.narrow(1, row + first, length), dp.narrow(1, first, length), phi, 1);
    });
    panels(M, kKeyPanel, [&](int64_t first, int64_t length) {
      add_product(d_g.narrow(1, first, length), p.narrow(2, first, length).transpose(1, 2), dy, row > 0);
      add_product(d_phi.narrow(1, first, length), dp.narrow(2, first, length).transpose(1, 2), query, row > 0);
    });
  }

  void all_blocks() const {
    const int64_t N = theta.size(1), R = even_tile(N, kBackwardQueries);
    const Tensor p = at::empty({theta.size(0), R, phi.size(1)}, theta.options()), dp = at::empty_like(p);
    for (int64_t row = 0; row < N; row += R) {
      const int64_t rows = std::min(R, N - row);
      block(row, rows, p.narrow(1, 0, rows), dp.narrow(1, 0, rows));
    }
  }
};

}  // namespace

Tensor non_local_softmax_cpu(const Tensor& theta, const Tensor& phi, const Tensor& g, double scale, CpuLevel level) {
  check_pairs("non_local_softmax", theta, phi, g);
  if (!has_softmax_blocks(theta)) return non_local_softmax_definition(theta, phi, g, scale);
  const int64_t B = theta.size(0), N = theta.size(1), I = theta.size(2), M = phi.size(1), V = g.size(2);
  const Tensor query = as_matrices(theta), key = as_matrices(phi), value = as_matrices(g);
  const Tensor y = at::empty({B, N, V}, theta.options());
  if (V == 0) return y;
  for_each_pair_tile(B, N, kForwardQueries, M * (I + V), [&](const PairTile& tile) {
    const Tensor weights = at::empty({tile.samples, tile.rows, M}, theta.options());
    if (I == 0) {
      weights.zero_();
    } else {
      product_into(weights, tile.of(query), tile.whole(key).transpose(1, 2), scale);
    }
    softmax_in_place(weights, level);
    product_into(tile.of(y), weights, tile.whole(value), 1);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> non_local_softmax_backward_cpu(const Tensor& grad, const Tensor& theta,
                                                                  const Tensor& phi, const Tensor& g, double scale,
                                                                  CpuLevel level) {
  check_non_local_softmax_backward(grad, theta, phi, g);
  const int64_t B = theta.size(0), N = theta.size(1), I = theta.size(2), M = phi.size(1), V = g.size(2);
  if (!has_softmax_blocks(theta) || I == 0 || V == 0 || N == 0) {
    return non_local_softmax_backward_definition(grad, theta, phi, g, scale);
  }
  const Tensor dy = as_matrices(grad), query = as_matrices(theta), key = as_matrices(phi), value = as_matrices(g);
  const Tensor d_theta = at::empty({B, N, I}, theta.options());
  const Tensor d_phi = at::empty({B, M, I}, at::kFloat), d_g = at::empty({B, M, V}, at::kFloat);
  const auto gradient_of = [&](const PairTile& tile, bool tasks) {
    SoftmaxGradient{tile.whole(dy),
                    tile.whole(query),
                    tile.whole(key),
                    tile.whole(value),
                    tile.whole(d_theta),
                    tile.whole(d_phi),
                    tile.whole(d_g),
                    scale,
                    level,
                    tasks}
        .all_blocks();
  };
  if (B >= at::get_num_threads()) {
    for_each_pair_tile(B, N, N, M * (I + V), [&](const PairTile& tile) { gradient_of(tile, /*tasks=*/false); });
  } else {
    for (int64_t sample = 0; sample < B; ++sample) gradient_of({sample, 1, 0, N}, /*tasks=*/true);
  }
  return {d_theta, d_phi.to(theta.scalar_type()), d_g.to(theta.scalar_type())};
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("non_local_softmax_blocks", at_cpu_level<non_local_softmax_cpu>);
  m.impl("non_local_softmax_backward", at_cpu_level<non_local_softmax_backward_cpu>);
}

}  // namespace loci
