// From a trained machine to a discrete one: every choice becomes its likeliest source, every controller input 0 or 1,
// and the machine stops after a step whose stop logit is above 0 (the paper is silent there).
#pragma once

#include <functional>

#include "loci/nn/machine/neural_ram.h"
#include "loci/program/ram_program.h"
#include "loci/program/verify.h"

namespace loci {

CircuitShape circuit_shape(const NeuralRamOptions& options);

// The circuit that these logits [O + 1] ask for.
Circuit circuit_of(const CircuitShape& shape, const std::vector<float>& logits);

// All 2^R circuits of an mlp controller as a table. Throws Error (usage) for an lstm, whose circuits depend on its
// past. `between` is called now and then, and may throw to end the work.
RamProgram discretise(const NeuralRam& machine, int64_t seed_index, const std::function<void()>& between = {});

// Runs either controller with discrete circuits; `between` is called before each run as well.
RamRunner discrete_runner(const NeuralRam& machine, int64_t seed_index, const std::function<void()>& between = {});

}  // namespace loci
