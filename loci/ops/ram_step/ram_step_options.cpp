// Legend: R registers, Q modules, M values and cells, U modules of the user.
#include <ATen/core/Tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "loci/ops/ram_step/ram_machine_kernel.h"
#include "loci/ops/ram_step/ram_step_definition.h"

namespace loci {

using at::Tensor;

int64_t RamStepOptions::logits() const {
  int64_t sum = registers * (registers + std::ssize(operation));
  for (size_t i = 0; i < operands.size(); ++i) sum += operands[i] * (registers + static_cast<int64_t>(i));
  return sum;
}

Tensor ram_module_table(const RamModule& module, int64_t M) {
  Tensor table = at::zeros({M, M}, at::kInt);
  int32_t* value = table.mutable_data_ptr<int32_t>();
  for (int64_t a = 0; a < M; ++a) {
    for (int64_t b = 0; b < M; ++b) {
      *value++ = static_cast<int32_t>(module.evaluate(static_cast<uint32_t>(module.operands > 0 ? a : 0),
                                                      static_cast<uint32_t>(module.operands > 1 ? b : 0),
                                                      static_cast<uint32_t>(M)));
    }
  }
  return table;
}

RamStepOptions ram_step_options(int64_t registers, const std::vector<RamModule>& modules, int64_t repeats, int64_t M) {
  RamStepOptions options;
  options.registers = registers;
  const std::vector<RamModule>& known = standard_modules();
  std::vector<int64_t> operation;
  std::vector<Tensor> tables;
  for (const RamModule& module : modules) {
    const auto same = std::find_if(known.begin(), known.end(), [&](const RamModule& other) {
      return other.role == module.role && other.evaluate == module.evaluate && other.operands == module.operands;
    });
    if (same != known.end()) {
      operation.push_back(same - known.begin());
      continue;
    }
    operation.push_back(kRamLookup + std::ssize(tables));
    tables.push_back(ram_module_table(module, M));
  }
  for (int64_t k = 0; k < repeats; ++k) {
    for (size_t i = 0; i < modules.size(); ++i) {
      options.operation.push_back(operation[i]);
      options.operands.push_back(modules[i].operands);
    }
  }
  options.lookup = tables.empty() ? at::zeros({0, M, M}, at::kInt) : at::stack(tables);
  return options;
}

void check_ram_machine(const char* who, const RamStepOptions& options, int64_t M) {
  TORCH_CHECK(M >= 3, who, ": M must be at least 3, since the machine knows the number 2, got ", M);
  TORCH_CHECK(options.registers >= 1, who, ": registers must be at least 1, got ", options.registers);
  TORCH_CHECK(!options.operation.empty(), who, ": modules must be at least 1, got none");
  TORCH_CHECK(options.operands.size() == options.operation.size(), who, ": operands must be ", options.operation.size(),
              " as modules are, got ", options.operands.size());
  TORCH_CHECK(options.lookup.defined() && options.lookup.dim() == 3 && options.lookup.size(1) == M &&
                  options.lookup.size(2) == M && options.lookup.scalar_type() == at::kInt,
              who, ": lookup must be int32 [U, M, M] with M = ", M, ", got ", options.lookup.sizes());
  TORCH_CHECK(options.clip > 0, who, ": clip must be above 0, got ", options.clip);
  if (options.lookup.numel() > 0) {
    const int64_t least = options.lookup.min().item<int64_t>(), most = options.lookup.max().item<int64_t>();
    TORCH_CHECK(least >= 0 && most < M, who, ": lookup must hold 0 .. ", M - 1, ", got ", least < 0 ? least : most);
  }
  const std::vector<RamModule>& known = standard_modules();
  for (size_t i = 0; i < options.operation.size(); ++i) {
    const int64_t operation = options.operation[i], operands = options.operands[i];
    TORCH_CHECK(operation >= 0 && operation < kRamLookup + options.lookup.size(0), who, ": module ", i,
                " must be 0 .. ", kRamLookup + options.lookup.size(0) - 1, ", got ", operation);
    const int64_t wanted = operation < kRamLookup ? known[static_cast<size_t>(operation)].operands : operands;
    TORCH_CHECK(operands == wanted && operands >= 0 && operands <= 2, who, ": operands of module ", i, " must be ",
                operation < kRamLookup ? std::to_string(wanted) : "0 .. 2", ", got ", operands);
  }
}

}  // namespace loci
