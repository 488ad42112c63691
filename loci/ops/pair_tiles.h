// How the work of pairwise operators is cut: into tiles whose sizes follow from the operands' alone, so that the bits
// of a result do not depend on the number of threads. A tile is some rows of one sample, or several whole samples.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace loci {

// Samples first .. first + samples - 1, of each rows row .. row + rows - 1.
struct PairTile {
  int64_t first, samples, row, rows;

  at::Tensor of(const at::Tensor& x) const;     // x [B, N, ..] -> [samples, rows, ..]
  at::Tensor whole(const at::Tensor& x) const;  // x [B, M, ..] -> [samples, M, ..]
};

// The width of tiles that cut `size` into pieces of about `most` and about equal, in an even number where that is not
// small: two threads then end together.
int64_t even_tile(int64_t size, int64_t most);

// Runs work(0) .. work(count - 1) on the framework's threads. Products of matrices inside run on one thread each, with
// a count of 1 too.
void run_pair_tasks(int64_t count, const std::function<void(int64_t task)>& work);

// Calls work for every tile of B samples with N rows, in parallel. rows_at_once: of one sample; row_cost:
// multiply-adds of a row, by which small samples are put together.
void for_each_pair_tile(int64_t B, int64_t N, int64_t rows_at_once, int64_t row_cost,
                        const std::function<void(const PairTile&)>& work);

// x with each matrix of its last two dimensions, or its transpose, dense in memory.
at::Tensor as_matrices(const at::Tensor& x);

// out := scale * a b, or out += scale * a b; [samples, n, m], [samples, n, k] and [samples, k, m], one type.
void product_into(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, double scale, bool add = false);

}  // namespace loci
