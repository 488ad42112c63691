// Steps forward, slopes backward: functions whose gradient is another's, because their own is 0 almost everywhere
// (Bengio, Leonard and Courville 2013, "Estimating or propagating gradients through stochastic neurons").
//
// Legend: K choices.
#pragma once

#include <ATen/core/Tensor.h>

namespace loci {

// What reaches x through its sign.
enum class SignGradient {
  within_one,  // grad * 1[|x| <= 1]: that of clip(x, -1, 1)
  whole,       // grad: for weights that are clipped to [-1, 1] after each update
};

// +1 where x >= 0, else -1 (NaN too), in the type of x. (The framework's sign is 0 at 0.)
at::Tensor straight_through_sign(const at::Tensor& x, SignGradient gradient = SignGradient::within_one);

// value [.., K], score [.., K] -> value[.., argmax of score] [..], the first of equal ones. Backward, every choice gets
// a gradient: d score[k] = grad * value[k], as if the result were the sum over k of score[k] * value[k]; the value gets
// grad at the chosen k alone. K >= 1.
at::Tensor straight_through_choose(const at::Tensor& value, const at::Tensor& score);

// x; its gradient is multiplied by `factor`.
at::Tensor scale_gradient(const at::Tensor& x, double factor);

}  // namespace loci
