// Tensors of a trained model by name, copied into a model that exists.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>

namespace torch::nn {
class Module;
}

namespace loci {

// Copies parameters and buffers. Throws Error (input) in the name of `who`, before anything is copied, for names that
// the model does not have, other shapes, and names that `state` lacks unless `may_lack(name)`.
void load_state(const std::string& who, const torch::nn::Module& model, const std::map<std::string, at::Tensor>& state,
                const std::function<bool(const std::string& name)>& may_lack);

}  // namespace loci
