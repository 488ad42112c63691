// Steps forward, slopes backward: functions whose gradient is another's, because their own is 0 almost everywhere
// (Bengio, Leonard and Courville 2013, "Estimating or propagating gradients through stochastic neurons").
//
// Legend: K choices.
#pragma once

#include <ATen/core/Tensor.h>

#include "loci/ops/straight_through_sign/straight_through_sign.h"

namespace loci {

// value [.., K], score [.., K] -> value[.., argmax of score] [..], the first of equal ones. Backward, every choice gets
// a gradient: d score[k] = grad * value[k], as if the result were the sum over k of score[k] * value[k]; the value gets
// grad at the chosen k alone. K >= 1.
at::Tensor straight_through_choose(const at::Tensor& value, const at::Tensor& score);

// x; its gradient is multiplied by `factor`.
at::Tensor scale_gradient(const at::Tensor& x, double factor);

}  // namespace loci
