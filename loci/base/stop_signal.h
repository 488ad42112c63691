// Ctrl-C and termination: the first signal asks for a stop, the second quits at once.
//
//   const StopSignal signals("stopping");             // for as long as a phase that takes long
//   for (...) {
//     ...
//     StopSignal::check("stopped before the end");    // throws Interrupted when a signal came
//   }
//
// A phase without a StopSignal ends at the first signal, by the system's default. That is right where nothing is left
// to save or to clean up.
#pragma once

#include <signal.h>

#include <stdexcept>
#include <string>

namespace loci {

// A signal asked for the end; the exit status is 128 + signal.
class Interrupted : public std::runtime_error {
 public:
  Interrupted(int signal, const std::string& message) : std::runtime_error(message), signal_(signal) {}
  int signal() const { return signal_; }

 private:
  int signal_;
};

// While one lives, the first SIGINT or SIGTERM is only remembered and announced. They may be nested: the outermost one
// installs the handlers and makes the announcement. To be made and destroyed on one thread.
class StopSignal {
 public:
  // What the first signal prints: "stopping after this step and saving". A literal, for the handler reads it later.
  explicit StopSignal(const char* announcement);
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  static int received();                          // the signal that came while a StopSignal lived; 0: none
  static void check(const std::string& message);  // throws Interrupted with this message when one came

 private:
  bool outermost_;
  struct sigaction interrupt_ = {};
  struct sigaction terminate_ = {};
};

}  // namespace loci
