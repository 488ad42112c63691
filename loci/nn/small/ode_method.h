// Explicit Runge-Kutta methods, as their tableaus.
//
//   k_i = f(s + c_i h, z + h sum_j<i a_ij k_j);  z(s + h) ~ z + h sum_i b_i k_i;  error ~ h sum_i e_i k_i
//
// Euler, midpoint and the classical method have fixed steps. The pairs of Dormand and Prince 1980 ("A family of
// embedded Runge-Kutta formulae") and of Tsitouras 2011 ("Runge-Kutta pairs of order 5(4) satisfying only the first
// column simplifying assumption") estimate their error; their last slope is the first of the next step.
#pragma once

#include <vector>

namespace loci {

enum class OdeMethod { euler, midpoint, rk4, dopri5, tsit5 };

struct OdeTableau {
  int order;                           // the error of a solution falls with h^order
  std::vector<double> c;               //
  std::vector<std::vector<double>> a;  // row i: of stages 0 .. i - 1
  std::vector<double> b;               //
  std::vector<double> error;           // e = b - the weights of the other order; empty: no estimate
  bool estimates() const { return !error.empty(); }
};

const OdeTableau& ode_tableau(OdeMethod method);

}  // namespace loci
