#include "loci/ops/row_update/row_update_kernel.h"

#include <math.h>

#include "loci/ops/row_update/row_rounding_kernel.h"
#include "loci/ops/row_update/row_rules_kernel.h"

namespace loci::LOCI_LEVEL {
namespace {

template <class Real>
class RowUpdater {
 public:
  RowUpdater(const RowUpdateArguments<Real>& a, BlockSums block_sums, const void* context,
             const RowWorkspace<Real>& workspace)
      : a_(a), block_sums_(block_sums), context_(context), bias_(workspace.bias) {
    if constexpr (sizeof(Real) == sizeof(float)) {
      sum_row_ = row_sum_kernel.float32.sum_row;
    } else {
      sum_row_ = row_sum_kernel.float64.sum_row;
    }
    const int64_t stride = a.width + 64;
    sum_ = workspace.scratch;
    block_ = sum_ + stride;
    value_ = block_ + stride;
    moment1_ = value_ + stride;
    moment2_ = moment1_ + stride;
    bits_ = reinterpret_cast<uint16_t*>(moment2_ + stride);
    table_bytes_ = a.width * (a.bfloat16_table ? 2 : static_cast<int64_t>(sizeof(Real)));
    moment_bytes_ = a.width * (a.bfloat16_moments ? 2 : static_cast<int64_t>(sizeof(Real)));
    const RowUpdate& update = a.update;
    numbers_.factor = static_cast<Real>(update.factor);
    numbers_.decay = static_cast<Real>(1 - update.rate * update.weight_decay);
    numbers_.rate = static_cast<Real>(update.rate);
    numbers_.root = 1;
    numbers_.epsilon = static_cast<Real>(update.epsilon);
    numbers_.beta1 = static_cast<Real>(update.beta1);
    numbers_.rest1 = static_cast<Real>(1 - update.beta1);
    numbers_.beta2 = static_cast<Real>(update.beta2);
    numbers_.rest2 = static_cast<Real>(1 - update.beta2);
  }

  void update(int64_t first, int64_t last) {
    const int64_t bytes = table_bytes_ + (a_.moment1 != nullptr ? 2 * moment_bytes_ : 0);
    int64_t ahead = kAheadBytes / (bytes > 0 ? bytes : 1);
    ahead = ahead < 1 ? 1 : ahead > 8 ? 8 : ahead;
    for (int64_t u = first; u < first + ahead && u < last; ++u) prefetch_row(a_.row[u]);
    for (int64_t u = first; u < last; ++u) {
      if (u + ahead < last) prefetch_row(a_.row[u + ahead]);
      if (u + 1 < last) prefetch_sources(u + 1);
      const Real* gradient = gradient_of(u);
      if (a_.square_sum != nullptr) a_.square_sum[u] = square_sum(a_.width, gradient, Real{1});
      update_row(u, gradient);
    }
  }

  void write_square_sums(int64_t first, int64_t last) {
    for (int64_t u = first; u < last; ++u) {
      if (u + 1 < last) prefetch_sources(u + 1);
      a_.square_sum[u] = square_sum(a_.width, gradient_of(u), Real{1});
    }
  }

 private:
  static constexpr int64_t kAheadBytes = 8192;  // a quarter of the first-level cache
  static constexpr int64_t kSourcesAhead = 4;

  static void prefetch(const void* start, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(static_cast<const char*>(start) + line, 1);
  }

  void prefetch_row(int64_t row) const {
    prefetch(static_cast<const char*>(a_.table) + row * table_bytes_, table_bytes_);
    if (a_.moment1 != nullptr) prefetch(static_cast<const char*>(a_.moment1) + row * moment_bytes_, moment_bytes_);
    if (a_.moment2 != nullptr) {
      if (a_.update.rule == RowRule::adam) {
        prefetch(static_cast<const char*>(a_.moment2) + row * moment_bytes_, moment_bytes_);
      } else {
        __builtin_prefetch(static_cast<const Real*>(a_.moment2) + row, 1);
      }
    }
    if (a_.master != nullptr) prefetch(a_.master + row * a_.width, a_.width * 4);
    if (a_.count != nullptr) __builtin_prefetch(a_.count + row, 1);
  }

  void prefetch_sources(int64_t u) const {
    if (a_.references == nullptr) return;
    const RowSumArguments<Real>& r = *a_.references;
    const int64_t begin = r.begin[u], end = r.begin[u + 1];
    for (int64_t m = begin; m < end && m < begin + kSourcesAhead; ++m) {
      const char* start = reinterpret_cast<const char*>(r.source + r.source_index[m] * a_.width);
      for (int64_t d = 0; d < a_.width; d += 64 / static_cast<int64_t>(sizeof(Real))) {
        __builtin_prefetch(start + d * static_cast<int64_t>(sizeof(Real)));
      }
    }
  }

  const Real* gradient_of(int64_t u) {
    if (a_.references == nullptr) return a_.gradient + u * a_.width;
    const void* sums = context_ == nullptr ? nullptr : block_sums_(context_, u);
    sum_row_(*a_.references, u, static_cast<const Real*>(sums), sum_, block_);
    return sum_;
  }

  void correct_bias(int32_t t) {
    const int32_t slot = t & (RowBias<Real>::kSize - 1);
    if (bias_->count[slot] != t) {
      bias_->count[slot] = t;
      bias_->rate[slot] = static_cast<Real>(a_.update.rate / (1 - pow(a_.update.beta1, static_cast<double>(t))));
      bias_->root[slot] = static_cast<Real>(1 / __builtin_sqrt(1 - pow(a_.update.beta2, static_cast<double>(t))));
    }
    numbers_.rate = bias_->rate[slot];
    numbers_.root = bias_->root[slot];
  }

  // mean(g^2) of the whole row, of rules with one second moment a row.
  Real mean_square(int64_t u, const Real* gradient) const {
    const bool here = a_.whole_square == nullptr;
    const double factor = here ? 1 : a_.update.factor;
    const double sum = here ? square_sum(a_.width, gradient, numbers_.factor) : a_.whole_square[u] * factor * factor;
    return static_cast<Real>(sum / static_cast<double>(here ? a_.width : a_.update.whole_width));
  }

  void update_row(int64_t u, const Real* gradient) {
    if (a_.width == 0) return;
    const int64_t row = a_.row[u];
    if (a_.update.rule == RowRule::adagrad || a_.update.rule == RowRule::adam_row_moment) {
      square_ = mean_square(u, gradient);
    }
    if (a_.count != nullptr) correct_bias(++a_.count[row]);
    if constexpr (sizeof(Real) == sizeof(float)) {
      if (a_.bfloat16_table) return update_bfloat16_row(row, gradient);
    }
    apply(row, gradient, static_cast<Real*>(a_.table) + row * a_.width);
  }

  void update_bfloat16_row(int64_t row, const float* gradient) {
    uint16_t* stored = static_cast<uint16_t*>(a_.table) + row * a_.width;
    if (a_.master == nullptr) {
      read_bfloat16(a_.width, stored, value_);
    } else {
      read_master(a_.width, stored, a_.master + row * a_.width, value_);
    }
    apply(row, gradient, value_);
    if (a_.update.rounding == RowRounding::stochastic) {
      write_stochastic(a_.width, value_, bits_of_row(a_.update.seed, row), stored);
    } else {
      write_nearest(a_.width, value_, stored);
    }
    if (a_.master != nullptr) __builtin_memcpy(a_.master + row * a_.width, value_, a_.width * sizeof(float));
  }

  // The random bits of the columns here.
  const uint16_t* bits_of_row(uint64_t seed, int64_t row) const {
    const int64_t first = a_.update.first_column, shift = first % 8;  // a block of bits serves eight columns
    rounding_bits(seed, a_.update.step, a_.update.first_row + row, first / 8, a_.width + shift, bits_);
    return bits_ + shift;
  }

  // Applies the rule to a row's value and to its moments, which may be bfloat16.
  void apply(int64_t row, const Real* gradient, Real* value) {
    const int64_t start = row * a_.width;
    Real* one_moment2 = static_cast<Real*>(a_.moment2) + row;
    switch (a_.update.rule) {
      case RowRule::sgd:
        return update_sgd(numbers_, a_.width, gradient, value);
      case RowRule::adagrad:
        return update_adagrad(numbers_, a_.width, gradient, square_, value, one_moment2);
      case RowRule::adam:
      case RowRule::adam_row_moment:
        break;
    }
    if constexpr (sizeof(Real) == sizeof(float)) {
      if (a_.bfloat16_moments) return apply_to_bfloat16_moments(row, gradient, value);
    }
    Real* moment1 = static_cast<Real*>(a_.moment1) + start;
    if (a_.update.rule == RowRule::adam) {
      update_adam(numbers_, a_.width, gradient, value, moment1, static_cast<Real*>(a_.moment2) + start);
    } else {
      update_adam_row_moment(numbers_, a_.width, gradient, square_, value, moment1, one_moment2);
    }
  }

  void apply_to_bfloat16_moments(int64_t row, const float* gradient, float* value) {
    const int64_t start = row * a_.width;
    const bool adam = a_.update.rule == RowRule::adam;
    uint16_t* first = static_cast<uint16_t*>(a_.moment1) + start;
    uint16_t* second = static_cast<uint16_t*>(a_.moment2) + start;
    read_bfloat16(a_.width, first, moment1_);
    if (adam) {
      read_bfloat16(a_.width, second, moment2_);
      update_adam(numbers_, a_.width, gradient, value, moment1_, moment2_);
    } else {
      update_adam_row_moment(numbers_, a_.width, gradient, square_, value, moment1_,
                             static_cast<float*>(a_.moment2) + row);
    }
    const uint16_t* bits = bits_of_row(a_.update.seed ^ kMomentStream, row);
    write_stochastic(a_.width, moment1_, bits, first);
    if (adam) write_stochastic(a_.width, moment2_, bits, second);
  }

  const RowUpdateArguments<Real>& a_;
  BlockSums block_sums_;
  const void* context_;
  decltype(RowSumFunctions<Real>::sum_row) sum_row_;
  RowBias<Real>* bias_;
  RowNumbers<Real> numbers_;
  Real *sum_, *block_, *value_, *moment1_, *moment2_;
  uint16_t* bits_;
  Real square_ = 0;  // of the row that is updated
  int64_t table_bytes_, moment_bytes_;
};

template <class Real>
void update_rows(const RowUpdateArguments<Real>& a, int64_t first, int64_t last, BlockSums block_sums,
                 const void* context, const RowWorkspace<Real>& workspace) {
  RowUpdater<Real>(a, block_sums, context, workspace).update(first, last);
}

template <class Real>
void write_square_sums(const RowUpdateArguments<Real>& a, int64_t first, int64_t last, BlockSums block_sums,
                       const void* context, const RowWorkspace<Real>& workspace) {
  RowUpdater<Real>(a, block_sums, context, workspace).write_square_sums(first, last);
}

}  // namespace

const RowUpdateKernel row_update_kernel = {{update_rows<float>, write_square_sums<float>},
                                           {update_rows<double>, write_square_sums<double>}};

}  // namespace loci::LOCI_LEVEL
