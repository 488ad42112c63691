// The cases of operators on rows: reads, inner products, order, sums, updates, counters.
#pragma once

#include <ATen/core/Tensor.h>

#include "bench/case_size.h"
#include "bench/cases.h"

namespace loci::bench {

Case read_case(const CaseSize& s, at::ScalarType type, const char* name);
Case project_case(const CaseSize& s);
Case row_order_case(const CaseSize& s);
Case row_sum_case(const CaseSize& s);
Case row_update_case(const CaseSize& s);
Case row_step_case(int64_t T, int64_t N);
Case usage_add_case(const CaseSize& s);

}  // namespace loci::bench
