// Legend: N rows, D width, U distinct rows.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "loci/base/cpu_level.h"
#include "loci/ops/row_update/row_update_definition.h"
#include "loci/ops/row_update/row_update_kernel.h"

namespace loci {
namespace {

using at::Tensor;

template <class Real>
const RowUpdateKernel<Real>& kernel() {
  const CpuLevel level = cpu_level();
  if constexpr (std::is_same_v<Real, float>) {
    return level == CpuLevel::avx512 ? avx512::row_update_float
           : level == CpuLevel::avx2 ? avx2::row_update_float
                                     : base::row_update_float;
  } else {
    return level == CpuLevel::avx512 ? avx512::row_update_double
           : level == CpuLevel::avx2 ? avx2::row_update_double
                                     : base::row_update_double;
  }
}

const Bfloat16Kernel& bfloat16_kernel() {
  const CpuLevel level = cpu_level();
  return level == CpuLevel::avx512 ? avx512::row_bfloat16
         : level == CpuLevel::avx2 ? avx2::row_bfloat16
                                   : base::row_bfloat16;
}

int64_t rows_of_a_task(int64_t width) { return std::max<int64_t>(1, 8192 / std::max<int64_t>(width, 1)); }

// The rule on rows of Real. State pointers are those of row 0; unused ones are null.
template <class Real>
class Rule {
 public:
  Rule(const RowState& state, const RowUpdate& update, int64_t width)
      : update_(update),
        width_(width),
        moment1_(state.moment1.defined() ? state.moment1.mutable_data_ptr<Real>() : nullptr),
        moment2_(state.moment2.defined() ? state.moment2.mutable_data_ptr<Real>() : nullptr),
        count_(state.count.defined() ? state.count.mutable_data_ptr<int32_t>() : nullptr) {}

  void operator()(int64_t row, const Real* gradient, Real* value) const {
    RowNumbers<Real> n{};
    n.factor = static_cast<Real>(update_.factor);
    n.decay = static_cast<Real>(1 - update_.rate * update_.weight_decay);
    n.rate = static_cast<Real>(update_.rate);
    n.epsilon = static_cast<Real>(update_.epsilon);
    switch (update_.rule) {
      case RowRule::sgd: return kernel_.sgd(n, width_, gradient, value);
      case RowRule::adagrad: return kernel_.adagrad(n, width_, gradient, value, moment2_ + row);
      default: break;
    }
    const double t = ++count_[row];
    n.rate = static_cast<Real>(update_.rate / (1 - std::pow(update_.beta1, t)));
    n.root = static_cast<Real>(1 / std::sqrt(1 - std::pow(update_.beta2, t)));
    n.beta1 = static_cast<Real>(update_.beta1);
    n.rest1 = static_cast<Real>(1 - update_.beta1);
    n.beta2 = static_cast<Real>(update_.beta2);
    n.rest2 = static_cast<Real>(1 - update_.beta2);
    Real* moment1 = moment1_ + row * width_;
    if (update_.rule == RowRule::adam) {
      kernel_.adam(n, width_, gradient, value, moment1, moment2_ + row * width_);
    } else {
      kernel_.adam_row_moment(n, width_, gradient, value, moment1, moment2_ + row);
    }
  }

 private:
  const RowUpdateKernel<Real>& kernel_ = kernel<Real>();
  const RowUpdate& update_;
  int64_t width_;
  Real* moment1_;
  Real* moment2_;
  int32_t* count_;
};

template <class Real>
void update_rows(const Tensor& table, const RowState& state, const int64_t* row, const Tensor& gradient,
                 const RowUpdate& update) {
  const int64_t width = table.size(1);
  const Rule<Real> rule(state, update, width);
  Real* values = table.mutable_data_ptr<Real>();
  const Real* g = gradient.const_data_ptr<Real>();
  at::parallel_for(0, gradient.size(0), rows_of_a_task(width), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) rule(row[u], g + u * width, values + row[u] * width);
  });
}

void update_bfloat16_rows(const Tensor& table, const RowState& state, const int64_t* row, const Tensor& gradient,
                          const RowUpdate& update) {
  const int64_t width = table.size(1);
  const Rule<float> rule(state, update, width);
  const Bfloat16Kernel& kernel = bfloat16_kernel();
  auto* values = static_cast<uint16_t*>(table.mutable_data_ptr());
  float* masters = update.rounding == RowRounding::master ? state.master.mutable_data_ptr<float>() : nullptr;
  const float* g = gradient.const_data_ptr<float>();
  at::parallel_for(0, gradient.size(0), rows_of_a_task(width), [&](int64_t begin, int64_t end) {
    std::vector<float> value(width);
    std::vector<uint16_t> bits(width + 63);
    for (int64_t u = begin; u < end; ++u) {
      uint16_t* stored = values + row[u] * width;
      if (masters == nullptr) {
        kernel.read(width, stored, value.data());
      } else {
        kernel.read_master(width, stored, masters + row[u] * width, value.data());
      }
      rule(row[u], g + u * width, value.data());
      if (update.rounding == RowRounding::stochastic) {
        kernel.rounding_bits(update.seed, update.step, row[u], width, bits.data());
        kernel.write_stochastic(width, value.data(), bits.data(), stored);
      } else {
        kernel.write_nearest(width, value.data(), stored);
      }
      if (masters != nullptr) std::copy(value.begin(), value.end(), masters + row[u] * width);
    }
  });
}

void row_update_cpu(const Tensor& table, const RowState& state, const Tensor& row, const Tensor& gradient,
                    const RowUpdate& update) {
  check_row_update(table, state, row, gradient, update);
  const auto run = table.scalar_type() == at::kBFloat16 ? update_bfloat16_rows
                   : table.scalar_type() == at::kFloat  ? update_rows<float>
                                                        : update_rows<double>;
  const Tensor rows = row.contiguous();
  run(table, state, rows.const_data_ptr<int64_t>(), gradient.contiguous(), update);
}

template <class Real>
void square_sums(const Tensor& gradient, double* out) {
  const int64_t width = gradient.size(1);
  const Real* g = gradient.const_data_ptr<Real>();
  at::parallel_for(0, gradient.size(0), rows_of_a_task(width), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) out[u] = kernel<Real>().square_sum(width, g + u * width, 1);
  });
}

Tensor row_square_sum_cpu(const Tensor& gradient) {
  if ((gradient.scalar_type() != at::kFloat && gradient.scalar_type() != at::kDouble) || gradient.dim() != 2) {
    return row_square_sum_definition(gradient);  // says what is wrong
  }
  Tensor out = at::empty({gradient.size(0)}, gradient.options().dtype(at::kDouble));
  const auto run = gradient.scalar_type() == at::kFloat ? square_sums<float> : square_sums<double>;
  run(gradient.contiguous(), out.mutable_data_ptr<double>());
  return out;
}

TORCH_LIBRARY_IMPL(loci, CPU, m) {
  m.impl("row_update_", run_row_update<row_update_cpu>);
  m.impl("row_square_sum", row_square_sum_cpu);
}

}  // namespace
}  // namespace loci
