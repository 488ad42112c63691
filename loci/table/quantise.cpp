// Legend: N rows, D width.
#include "loci/table/quantise.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "loci/base/check.h"

namespace loci {
namespace {

// The scale of a row, and its values. Quotients in double: rounded once, so that the bound of scale / 2 holds.
float quantise(const float* row, int64_t width, int8_t* out) {
  float largest = 0;
  for (int64_t d = 0; d < width; ++d) largest = std::max(largest, std::abs(row[d]));
  float scale = largest / 127;
  // Subnormal scales are coarse: never one of which the largest value is more than 127.5.
  if (largest > 127.5 * scale) scale = std::nextafter(scale, std::numeric_limits<float>::infinity());
  for (int64_t d = 0; d < width; ++d) {
    const double value = scale == 0 ? 0 : static_cast<double>(row[d]) / static_cast<double>(scale);
    out[d] = static_cast<int8_t>(std::clamp(std::nearbyint(value), -127.0, 127.0));
  }
  return scale;
}

}  // namespace

QuantisedRows quantise_rows(const at::Tensor& rows) {
  TORCH_CHECK(rows.dim() == 2, "quantise_rows: rows must be [N, D], got ", rows.sizes());
  const at::Tensor real = rows.detach().to(at::kFloat).contiguous();
  if (!real.isfinite().all().item<bool>()) {
    fail(ExitCode::numbers, "quantise_rows", "rows must be finite in float32", "NaN or infinity");
  }
  QuantisedRows out{at::empty(real.sizes(), at::kChar), at::empty({real.size(0)}, at::kFloat)};
  const int64_t width = real.size(1);
  const float* from = real.const_data_ptr<float>();
  int8_t* values = out.values.mutable_data_ptr<int8_t>();
  float* scale = out.scale.mutable_data_ptr<float>();
  at::parallel_for(0, real.size(0), std::max<int64_t>(1, 16384 / std::max<int64_t>(width, 1)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t n = begin; n < end; ++n) {
                       scale[n] = quantise(from + n * width, width, values + n * width);
                     }
                   });
  return out;
}

}  // namespace loci
