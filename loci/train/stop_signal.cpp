#include "loci/train/stop_signal.h"

#include <unistd.h>

#include <atomic>
#include <string_view>

namespace loci {
namespace {

std::atomic<int> received_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

// Only what is safe in a signal handler: an atomic, write() and _exit().
void on_signal(int signal) {
  if (received_signal.exchange(signal) != 0) _exit(128 + signal);
  constexpr std::string_view text = "\nloci: stopping after this step and saving (once more to quit at once)\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

StopSignal::StopSignal() {
  received_signal = 0;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &interrupt_);
  sigaction(SIGTERM, &action, &terminate_);
}

StopSignal::~StopSignal() {
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGTERM, &terminate_, nullptr);
}

int StopSignal::received() {
  return received_signal;
}

}  // namespace loci
