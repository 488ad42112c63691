#include "loci/train/in_turns.h"

#include <utility>
#include <vector>

#include "loci/base/median.h"

namespace loci {

double ratio_in_turns(const std::function<double()>& a, const std::function<double()>& b, int rounds) {
  std::vector<double> ratios;
  for (int round = 0; round < rounds; ++round) {
    const double first = round % 2 == 0 ? a() : b();
    const double second = round % 2 == 0 ? b() : a();
    ratios.push_back(round % 2 == 0 ? first / second : second / first);
  }
  return median_of(std::move(ratios));
}

}  // namespace loci
