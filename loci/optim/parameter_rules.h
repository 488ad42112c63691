// Rules of single parameters beside that of the optimiser: hooks of NamedParameter::after_update.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace loci {

// Every number of the parameter becomes the nearest of [low, high].
std::function<void(at::Tensor& value)> clip_to(double low, double high);

}  // namespace loci
