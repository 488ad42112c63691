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

// Text from outside (a path, a tensor's name) as one line that is safe on a terminal: line ends, other control
// characters, marks that change the direction of text and bytes that are not UTF-8 become \n, \u001b or \xff. The rest
// stays as it is, so that printing twice changes nothing.
std::string printable(std::string_view text);

class Error : public std::runtime_error {
 public:
  // what() is printable(message).
  Error(ExitCode code, std::string_view message) : std::runtime_error(printable(message)), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// Throws Error with the message "who: expected ..., got ...". `expected` reads as a sentence: "index must be int64".
[[noreturn]] void fail(ExitCode code, std::string_view who, std::string_view expected, std::string_view got);

// Runs `action` on a file that a run wrote: what is wrong usage in a user's file is a broken file there.
template <class Action>
auto as_input(Action action) {
  try {
    return action();
  } catch (const Error& error) {
    if (error.code() != ExitCode::usage) throw;
    throw Error(ExitCode::input, error.what());
  }
}

// Sizes that a caller or a configuration asks for: the product or sum, or an Error (usage) when it does not fit int64
// or a part is negative. A configuration that a run wrote is read through as_input(). The sizes in the header of a
// tensor file are checked where it is parsed.
int64_t checked_product(std::string_view who, std::string_view what, int64_t a, int64_t b);
int64_t checked_sum(std::string_view who, std::string_view what, int64_t a, int64_t b);

}  // namespace loci
