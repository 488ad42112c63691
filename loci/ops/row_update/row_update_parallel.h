// Updates of many rows by several threads, without torch. Bits do not depend on the number of threads.
//
// Legend: U distinct rows.
#pragma once

#include <cstdint>

#include "loci/base/cpu_level.h"
#include "loci/ops/row_order/row_order_sort.h"
#include "loci/ops/row_update/row_update_kernel.h"

namespace loci {

// Updates all rows of `a`. Each thread gets about as many references; all threads sum the rows that have many.
template <class Real>
void update_rows(const RowUpdateArguments<Real>& a, CpuLevel level, int64_t threads, const RunParts& run);

// Writes a.square_sum and changes no row.
template <class Real>
void square_sums(const RowUpdateArguments<Real>& a, CpuLevel level, int64_t threads, const RunParts& run);

}  // namespace loci
