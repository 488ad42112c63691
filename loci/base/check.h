// Errors: every message says who speaks, what was expected and what came instead.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace loci {

// The exit status of the command line (docs/command-line.md). Signals give 130 and 143.
enum class ExitCode : int {
  ok = 0,
  bug = 1,        // ours
  usage = 2,      // command line or configuration
  input = 3,      // a file that is missing, broken or of another kind
  resources = 4,  // memory or disk
  numbers = 5,    // NaN or infinity in training
  peer = 6,       // another process was lost
};

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// Throws Error with the message "who: expected ..., got ...". `expected` reads as a sentence: "index must be int64".
[[noreturn]] inline void fail(ExitCode code, std::string_view who, std::string_view expected, std::string_view got) {
  throw Error(code, fmt::format("{}: {}, got {}", who, expected, got));
}

// Sizes that come from files and configurations: the product, or an Error when it does not fit int64 or is negative.
inline int64_t checked_product(std::string_view who, std::string_view what, int64_t a, int64_t b) {
  int64_t product = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) {
    fail(ExitCode::input, who, fmt::format("{} must fit 63 bits", what), fmt::format("{} x {}", a, b));
  }
  return product;
}

inline int64_t checked_sum(std::string_view who, std::string_view what, int64_t a, int64_t b) {
  int64_t sum = 0;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &sum)) {
    fail(ExitCode::input, who, fmt::format("{} must fit 63 bits", what), fmt::format("{} + {}", a, b));
  }
  return sum;
}

}  // namespace loci
