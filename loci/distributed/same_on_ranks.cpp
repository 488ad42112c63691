#include "loci/distributed/same_on_ranks.h"

#include "loci/base/check.h"
#include "loci/distributed/agreement.h"

namespace loci {
namespace {

// The first line of each that differs; the texts themselves where they have one line.
std::pair<std::string, std::string> first_difference(std::string a, std::string b) {
  const auto cut_line = [](std::string& text) {
    const size_t end = text.find('\n');
    std::string line = text.substr(0, end);
    text = end == std::string::npos ? "" : text.substr(end + 1);
    return line;
  };
  while (!a.empty() || !b.empty()) {
    const std::string left = cut_line(a), right = cut_line(b);
    if (left != right) return {left, right};
  }
  return {};
}

}  // namespace

void require_same(const Ranks& ranks, const std::vector<std::pair<std::string, std::string>>& facts) {
  if (ranks.size == 1) return;
  for (const auto& [name, value] : facts) {
    const std::vector<std::string> values = gather_texts(ranks, value);
    for (size_t rank = 1; rank < values.size(); ++rank) {
      if (values[rank] == values[0]) continue;
      const auto [of_first, of_rank] = first_difference(values[0], values[rank]);
      fail(ExitCode::usage, "rank " + std::to_string(rank), name + " must be that of rank 0, \"" + of_first + "\"",
           "\"" + of_rank + "\"");
    }
  }
}

}  // namespace loci
