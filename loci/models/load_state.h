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

// The part of a model that a name belongs to and that trained tensors may lack, such as a memory; or "".
using PartOfName = std::function<std::string(const std::string& name)>;

// Copies parameters and buffers; a part is given whole or not at all, and then stays as it is. Throws Error (input) in
// the name of `who`, before anything is copied, for names that the model does not have, other shapes, and names that
// are missing.
void load_state(const std::string& who, const torch::nn::Module& model, const std::map<std::string, at::Tensor>& state,
                const PartOfName& part_of);

}  // namespace loci
