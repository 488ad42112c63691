// Ctrl-C and termination: the first signal asks for a stop, the second quits at once.
#pragma once

#include <signal.h>

#include <stdexcept>
#include <string>

namespace loci {

// Thrown after a run was saved because a signal asked for it; the exit status is 128 + signal.
class Interrupted : public std::runtime_error {
 public:
  Interrupted(int signal, const std::string& message) : std::runtime_error(message), signal_(signal) {}
  int signal() const { return signal_; }

 private:
  int signal_;
};

// While it lives, the first SIGINT or SIGTERM is only remembered. One at a time in a process.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  static int received();  // 0: none yet

 private:
  struct sigaction interrupt_ = {};
  struct sigaction terminate_ = {};
};

}  // namespace loci
