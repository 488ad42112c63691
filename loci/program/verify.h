// Verifies a program against a task's oracle, on random instances of many lengths and tape sizes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "loci/program/instances.h"
#include "loci/program/ram_program.h"

namespace loci {

struct LengthReport {
  int64_t length = 0;
  int64_t instances = 0;
  int64_t wrong_instances = 0;  // with at least one wrong output cell
  int64_t cells = 0;            // output cells
  int64_t wrong_cells = 0;
  int64_t forced = 0;                 // runs that did not stop by themselves
  int64_t unseen = 0;                 // runs that met a pattern without a circuit
  std::map<uint32_t, int64_t> steps;  // number of runs by number of steps
};

struct CounterExample {
  int64_t length = 0;
  Tape tape;    // before the run
  Tape result;  // after it
  RamAnswer answer;
  RamRunResult run;
};

struct VerifyReport {
  std::vector<LengthReport> lengths;
  std::optional<CounterExample> counter_example;  // the first one

  LengthReport total() const;  // its length is the longest
  bool exact() const { return !counter_example.has_value(); }
};

// Anything that runs on a tape for at most max_steps steps.
using RamRunner = std::function<RamRunResult(std::span<uint32_t> tape, uint32_t max_steps)>;

// Each run gets the task's training_steps.
VerifyReport verify(const RamRunner& run, const RamTask& task, const InstanceOptions& options = {});
VerifyReport verify(const RamProgram& program, const RamTask& task, const InstanceOptions& options = {});

// {"exact", "lengths": [{"length", "instances", "instance_error", "instance_error_interval": [low, high], "cell_error",
// "forced", "unseen", "steps": {"7": 2000}}], "total": {...}, "counter_example": null or {...}}; intervals are
// Wilson's.
nlohmann::json to_json(const VerifyReport& report);

}  // namespace loci
