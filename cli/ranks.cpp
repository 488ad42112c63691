#include "cli/ranks.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <string_view>

namespace loci::cli {

bool one_of_several_ranks() {
  return has_rank() && std::string_view(std::getenv("WORLD_SIZE")) != "1";
}

std::string program_name() {
  return one_of_several_ranks() ? fmt::format("loci (rank {})", std::getenv("RANK")) : "loci";
}

JoinedRanks::JoinedRanks(int64_t seconds) {
  if (!has_rank()) return;
  group_.emplace(std::chrono::seconds(seconds));
  ranks_ = group_->ranks();
}

}  // namespace loci::cli
