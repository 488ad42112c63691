#include "loci/distributed/process_group.h"

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <charconv>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>

#include "loci/base/check.h"
#include "loci/distributed/cpu_share.h"
#include "loci/distributed/gloo_group.h"
#include "loci/distributed/peer_errors.h"

namespace loci {
namespace {

constexpr const char* kName = "loci";

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int64_t number(const char* name, int64_t least, int64_t most) {
  const std::string_view text = variable(name);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
    fail(ExitCode::usage, "process group",
         std::string(name) + " must be within " + std::to_string(least) + " .. " + std::to_string(most) +
             " (torchrun sets it)",
         text.empty() ? "nothing" : std::string(text));
  }
  return value;
}

// torchrun keeps a store of its own and says so; otherwise rank 0 opens one. After a restart old keys must not be read.
c10::intrusive_ptr<c10d::Store> join_store(const Ranks& ranks, std::chrono::milliseconds timeout) {
  const std::string master(variable("MASTER_ADDR"));
  if (master.empty()) fail(ExitCode::usage, "process group", "MASTER_ADDR must be set (torchrun sets it)", "nothing");
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(number("MASTER_PORT", 1, std::numeric_limits<uint16_t>::max()));
  options.isServer = ranks.rank == 0 && variable("TORCHELASTIC_USE_AGENT_STORE") != "True";
  options.numWorkers = static_cast<size_t>(ranks.size);
  options.waitWorkers = false;
  options.timeout = timeout;
  const auto store = c10::make_intrusive<c10d::TCPStore>(master, options);
  const std::string run =
      std::string(variable("TORCHELASTIC_RUN_ID")) + "/" + std::string(variable("TORCHELASTIC_RESTART_COUNT"));
  return c10::make_intrusive<c10d::PrefixStore>(std::string(kName) + "/" + run, store);
}

// The store's warnings repeat what the error says.
class WithoutWarnings {
 public:
  WithoutWarnings() { FLAGS_caffe2_log_level = 2; }  // errors alone
  ~WithoutWarnings() { FLAGS_caffe2_log_level = before_; }
  WithoutWarnings(const WithoutWarnings&) = delete;
  WithoutWarnings& operator=(const WithoutWarnings&) = delete;

 private:
  int before_ = FLAGS_caffe2_log_level;
};

}  // namespace

bool has_rank() {
  return !variable("RANK").empty() && !variable("WORLD_SIZE").empty();
}

int64_t ranks_of_host() {
  if (variable("LOCAL_WORLD_SIZE").empty()) return 1;
  return number("LOCAL_WORLD_SIZE", 1, std::numeric_limits<int>::max());
}

ProcessGroup::ProcessGroup(std::chrono::milliseconds timeout) {
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  const int64_t size = number("WORLD_SIZE", 1, kMost);
  ranks_ = {kName, number("RANK", 0, size - 1), size};
  const std::string who = "rank " + std::to_string(ranks_.rank) + " of " + std::to_string(size);
  const int64_t on_host = ranks_of_host();
  if (on_host > 1 && !variable("LOCAL_RANK").empty()) take_cpu_share(number("LOCAL_RANK", 0, on_host - 1), on_host);
  const WithoutWarnings quiet;
  group_ = with_peer_errors(who, "all ranks must join within the time-out", [&] {
    return make_gloo_group(join_store(ranks_, timeout), kName, static_cast<int>(ranks_.rank), static_cast<int>(size),
                           timeout);
  });
}

}  // namespace loci
