// Subset back-propagation (Bronskill et al. 2021, "Memory efficient meta-learning with large images", NeurIPS, arXiv
// 2107.01105, LITE): rows that are pooled have their exact values, and a few of them carry the gradient of all.
//
// Legend: N rows, H of them kept, B rows of one call of `embed`.
//
//   y_n = embed(x_n)                     for all rows; H of them, drawn without replacement, with gradient
//   dL/dy_n := N / H * dL/dy_n           where it enters a kept row; it enters no other
//
// A row is kept with probability H / N, and dL/dy_n is that of the exact values, so the mean gradient over the draws is
// the full one, whatever is made of the y_n afterwards. This holds where
//   - y_n depends on x_n alone (a batch norm in `embed` breaks it), and
//   - other ways from the parameters to the loss, such as that of the queries, are not scaled, and
//   - each pooling of a model has a draw of its own: two calls with one sequence have independent ones.
// What backward keeps is that of H rows, in place of N.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "loci/base/random_sequence.h"

namespace loci {

struct SubsetOptions {
  int64_t kept = 1;    // H
  int64_t chunk = 64;  // the other rows are embedded in calls of at most so many
  bool scale = true;   // false: the factor is 1, and the gradient is biased; for comparisons
};

// rows [B, ...] -> [B, ...], each row by itself.
using EmbedRows = std::function<at::Tensor(const at::Tensor& rows)>;

// rows [N, ...] -> y [N, ...]. The kept rows are embedded in one call, before the others; with kept = N the result is
// embed(rows), bit for bit, and so is its gradient. Values have the same bits for any chunk where `embed` gives a row
// the same bits among any others. Throws c10::Error unless 1 <= kept <= N and chunk >= 1.
at::Tensor subset_backprop(const at::Tensor& rows, const EmbedRows& embed, const SubsetOptions& options,
                           RandomSequence& random);

// The values alone, without gradient: rows [N, ...] -> y [N, ...] in calls of at most `chunk` rows.
at::Tensor embed_in_chunks(const at::Tensor& rows, const EmbedRows& embed, int64_t chunk);

// `kept` of 0 .. rows-1 without replacement, ascending: [kept] int64. Takes `kept` numbers of the sequence.
at::Tensor draw_subset(int64_t rows, int64_t kept, RandomSequence& random);

}  // namespace loci
