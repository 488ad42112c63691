#include "loci/train/in_turns.h"

#include <algorithm>

namespace loci {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double ratio_in_turns(const std::function<double()>& a, const std::function<double()>& b, int rounds) {
  std::vector<double> ratios;
  for (int round = 0; round < rounds; ++round) {
    const double first = round % 2 == 0 ? a() : b();
    const double second = round % 2 == 0 ? b() : a();
    ratios.push_back(round % 2 == 0 ? first / second : second / first);
  }
  return median(ratios);
}

}  // namespace loci
