#include "loci/base/stop_signal.h"

#include <unistd.h>

#include <atomic>
#include <cstring>

namespace loci {
namespace {

std::atomic<int> received_signal = 0;
std::atomic<const char*> stop_announcement = nullptr;  // null: no StopSignal lives
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<const char*>::is_always_lock_free,
              "a signal handler may only touch lock-free atomics");

void write_to_standard_error(const char* text) {
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
}

// Only what is safe in a signal handler: atomics, strlen(), write() and _exit().
void on_stop_signal(int signal) {
  if (received_signal.exchange(signal) != 0) _exit(128 + signal);
  write_to_standard_error("\nloci: ");
  write_to_standard_error(stop_announcement.load());
  write_to_standard_error(" (once more to quit at once)\n");
}

}  // namespace

StopSignal::StopSignal(const char* announcement) : outermost_(stop_announcement.load() == nullptr) {
  if (!outermost_) return;
  received_signal = 0;
  stop_announcement = announcement;
  struct sigaction action = {};
  action.sa_handler = on_stop_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &interrupt_);
  sigaction(SIGTERM, &action, &terminate_);
}

StopSignal::~StopSignal() {
  if (!outermost_) return;
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGTERM, &terminate_, nullptr);
  stop_announcement = nullptr;
}

int StopSignal::received() {
  return stop_announcement.load() == nullptr ? 0 : received_signal.load();
}

void StopSignal::check(const std::string& message) {
  const int signal = received();
  if (signal != 0) throw Interrupted(signal, message);
}

}  // namespace loci
