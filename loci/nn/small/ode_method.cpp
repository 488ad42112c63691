#include "loci/nn/small/ode_method.h"

namespace loci {
namespace {

// e of a pair whose other weights are given.
std::vector<double> difference(const std::vector<double>& b, const std::vector<double>& other) {
  std::vector<double> error;
  for (size_t i = 0; i < b.size(); ++i) error.push_back(b[i] - other[i]);
  return error;
}

OdeTableau dormand_prince() {
  const std::vector<double> b = {35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84, 0};
  return {.order = 5,
          .c = {0, 1.0 / 5, 3.0 / 10, 4.0 / 5, 8.0 / 9, 1, 1},
          .a = {{},
                {1.0 / 5},
                {3.0 / 40, 9.0 / 40},
                {44.0 / 45, -56.0 / 15, 32.0 / 9},
                {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
                {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656},
                {b.begin(), b.end() - 1}},
          .b = b,
          .error = difference(
              b, {5179.0 / 57600, 0, 7571.0 / 16695, 393.0 / 640, -92097.0 / 339200, 187.0 / 2100, 1.0 / 40})};
}

OdeTableau tsitouras() {
  const std::vector<double> b = {0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081,
                                 2.324710524099774,   0};
  return {.order = 5,
          .c = {0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1},
          .a = {{},
                {0.161},
                {-0.008480655492356989, 0.335480655492357},
                {2.8971530571054935, -6.359448489975075, 4.3622954328695815},
                {5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525},
                {5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383},
                {b.begin(), b.end() - 1}},
          .b = b,
          .error = {-0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629,
                    0.5823571654525552, -0.45808210592918697, 1.0 / 66}};
}

}  // namespace

const OdeTableau& ode_tableau(OdeMethod method) {
  static const OdeTableau euler = {.order = 1, .c = {0}, .a = {{}}, .b = {1}, .error = {}};
  static const OdeTableau midpoint = {.order = 2, .c = {0, 0.5}, .a = {{}, {0.5}}, .b = {0, 1}, .error = {}};
  static const OdeTableau rk4 = {.order = 4,
                                 .c = {0, 0.5, 0.5, 1},
                                 .a = {{}, {0.5}, {0, 0.5}, {0, 0, 1}},
                                 .b = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6},
                                 .error = {}};
  static const OdeTableau dopri5 = dormand_prince(), tsit5 = tsitouras();
  switch (method) {
    case OdeMethod::euler:
      return euler;
    case OdeMethod::midpoint:
      return midpoint;
    case OdeMethod::rk4:
      return rk4;
    case OdeMethod::dopri5:
      return dopri5;
    case OdeMethod::tsit5:
      break;
  }
  return tsit5;
}

}  // namespace loci
