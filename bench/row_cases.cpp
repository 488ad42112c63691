#include "bench/row_cases.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "loci/ops/row_order/row_order.h"
#include "loci/ops/row_order/row_order_definition.h"
#include "loci/ops/row_sum/row_sum.h"
#include "loci/ops/row_sum/row_sum_definition.h"
#include "loci/ops/row_update/row_update.h"
#include "loci/ops/row_update/row_update_definition.h"
#include "loci/ops/table_read/table_project.h"
#include "loci/ops/table_read/table_read.h"
#include "loci/ops/table_read/table_read_definition.h"
#include "loci/ops/usage_add/usage_add.h"
#include "loci/ops/usage_add/usage_add_definition.h"

// Legend: case_size.h; U distinct rows, M references.

namespace loci::bench {
namespace {

using torch::Tensor;

std::string read_size(const CaseSize& s, const char* type) {
  return fmt::format("T {} K {} N {} D {} {}", s.T, s.H * s.K, s.N, s.D, type);
}

struct ReadInputs {
  Tensor table, index, weight, grad;
  double bytes;  // of the rows, the indices, the weights and the sums
  ReadInputs(const CaseSize& s, torch::ScalarType type)
      : table(torch::randn({s.N, s.D}).to(type)),
        index(torch::randint(s.N, {s.T, s.H * s.K}, torch::kLong)),
        weight(torch::randn({s.T, s.H * s.K})),
        grad(torch::randn({s.T, s.D})),
        bytes(count({s.T, s.H * s.K, s.D * table.element_size() + 12}) + count({s.T, s.D, 4})) {}
};

}  // namespace

Case read_case(const CaseSize& s, torch::ScalarType type, const char* name) {
  const ReadInputs in(s, type);
  return {"read",
          read_size(s, name),
          Bound::gather,
          in.bytes,
          0,
          [=] { table_read(in.table, in.index, in.weight); },
          [=] { table_read_definition(in.table, in.index, in.weight); }};
}

Case project_case(const CaseSize& s) {
  const ReadInputs in(s, torch::kFloat);
  return {"project",
          read_size(s, "float32"),
          Bound::gather,
          in.bytes,
          0,
          [=] { table_project(in.table, in.index, in.grad); },
          [=] { table_project_definition(in.table, in.index, in.grad); }};
}

Case row_order_case(const CaseSize& s) {
  const Tensor index = torch::randint(s.N, {s.T, s.H * s.K}, torch::kLong), weight = torch::randn({s.T, s.H * s.K});
  return {"row_order",
          fmt::format("references {} N {}", s.T * s.H * s.K, s.N),
          Bound::stream,
          count({s.T, s.H * s.K, 68}),
          0,
          [=] { row_order({index}, {weight}); },
          [=] { row_order_definition({index}, {weight}); }};
}

Case row_sum_case(const CaseSize& s) {
  const RowOrder order =
      row_order({torch::randint(s.N, {s.T, s.H * s.K}, torch::kLong)}, {torch::randn({s.T, s.H * s.K})});
  const int64_t M = order.source.size(0), U = order.row.size(0);
  const Tensor source = torch::randn({s.T, s.D});
  return {"row_sum",
          fmt::format("references {} rows {} D {}", M, U, s.D),
          Bound::gather,
          count({M, s.D * 4 + 8}) + count({U, s.D * 4 + 8}),
          0,
          [=] { row_sum(order, source); },
          [=] { row_sum_definition(order, source); }};
}

// Lazy Adam on as many rows as a step touches: rows and both moments are read and written, gradients read.
Case row_update_case(const CaseSize& s) {
  const int64_t U = std::min(s.N, s.T * s.H * s.K / 4);
  const Tensor table = torch::randn({s.N, s.D}), gradient = torch::randn({U, s.D});
  const Tensor row = std::get<0>(torch::randperm(s.N, torch::kLong).narrow(0, 0, U).sort());
  const RowState state{torch::zeros({s.N, s.D}), torch::zeros({s.N, s.D}), torch::zeros({s.N}, torch::kInt), {}};
  const RowUpdate update{.rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
  return {"row_update",
          fmt::format("rows {} N {} D {} adam", U, s.N, s.D),
          Bound::gather,
          count({U, s.D * 4 * 7 + 16}),
          0,
          [=] { row_update(table, state, row, gradient, update); },
          [=] { row_update_definition(table, state, row, gradient, update); }};
}

// N-gram rows, K a token, with weight 1. Their popularity falls as 1 / rank: the most popular of N = 2^14 rows is in
// 7 % of the reads, and its gradient is a sum over 430 sources.
Case row_step_case(int64_t T, int64_t N) {
  constexpr int64_t K = 3, D = 128;
  const Tensor rank = torch::rand({T, K}).mul(std::log(static_cast<double>(N))).exp().floor().to(torch::kLong) - 1;
  const Tensor index = rank.clamp(0, N - 1).mul(0x9E3779B1).remainder(N);  // odd: scatters the ranks over the table
  const Tensor table = torch::randn({N, D}), source = torch::randn({T, D});
  const RowOrder order = row_order({index}, {torch::ones({T, K})});
  const int64_t U = order.row.size(0);
  const RowState state{torch::zeros({N, D}), torch::zeros({N, D}), torch::zeros({N}, torch::kInt), {}};
  const RowUpdate update{.rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
  return {"row_step",
          fmt::format("references {} rows {} N {} D {} adam zipf", T * K, U, N, D),
          Bound::gather,
          count({T, K, D * 4 + 8}) + count({U, D * 4 * 6 + 16}),
          0,
          [=] { row_step(table, state, order, source, update); },
          [=] { row_step_definition(table, state, order, source, update); }};
}

// Indices and weights come in; the counters of each row read, at most min(M, N) rows, are read and written.
Case usage_add_case(const CaseSize& s) {
  const int64_t M = s.T * s.H * s.K;
  const Tensor counters = torch::zeros({s.N, 3}, torch::kInt);
  const Tensor index = torch::randint(s.N, {s.T, s.H, s.K}, torch::kLong), weight = torch::rand({s.T, s.H, s.K});
  return {"usage_add",
          fmt::format("references {} N {}", M, s.N),
          Bound::gather,
          count({M, 12}) + count({std::min(M, s.N), 24}),
          0,
          [=] { usage_add(counters, index, weight, 0, 0); },
          [=] { usage_add_definition(counters, index, weight, 0, 0); }};
}

}  // namespace loci::bench
