// The tape of a random-access machine: M cells with values 0 .. M-1, which are pointers and numbers alike; 0 is NULL.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "loci/base/check.h"

namespace loci {

using Tape = std::vector<uint32_t>;

// Throws Error (usage) unless `good`, for tapes come from users.
template <class Got>
void require_tape(std::string_view who, bool good, std::string_view expected, const Got& got) {
  if (!good) fail(ExitCode::usage, who, expected, fmt::to_string(got));
}

// M must be at least 3, since the machine knows the number 2, and every value below M.
inline void check_tape(std::string_view who, std::span<const uint32_t> tape) {
  require_tape(who, tape.size() >= 3, "tape must have at least 3 cells", tape.size());
  require_tape(who, tape.size() <= UINT32_MAX, "tape must have at most 4294967295 cells", tape.size());
  for (size_t i = 0; i < tape.size(); ++i) {
    if (tape[i] >= tape.size()) {
      require_tape(who, false, fmt::format("value at cell {} must be 0..{} (M={})", i, tape.size() - 1, tape.size()),
                   tape[i]);
    }
  }
}

}  // namespace loci
