// `loci bench ode`: a step of an ODE block beside the same field called by hand.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "bench/bench.h"

namespace loci::bench {

// solutions {field, method, steps, pass: forward | training, ms, ms_least, ms_most, by_hand_ms, ratio}, of one step,
// and of training the other gradients {adjoint_ms, checkpoints_ms}.
nlohmann::json run_ode(const BenchOptions& options);
std::string ode_table(const nlohmann::json& report);

}  // namespace loci::bench
