#include "loci/ops/pair_check.h"

#include <c10/util/Exception.h>

// Legend: B batch, N queries, M keys, I inner width, V width of a value.

namespace loci {

using at::Tensor;

void check_pair_type(const char* who, const char* name, const Tensor& other, const char* first_name,
                     const Tensor& first) {
  TORCH_CHECK(other.scalar_type() == first.scalar_type() && other.device() == first.device(), who, ": ", name,
              " must be ", first.scalar_type(), " on ", first.device(), " like ", first_name, ", got ",
              other.scalar_type(), " on ", other.device());
}

void check_pair_gradient(const char* who, const Tensor& grad, const char* first_name, const Tensor& first,
                         const Tensor& g) {
  check_pair_type(who, "grad", grad, first_name, first);
  TORCH_CHECK(grad.dim() == 3 && grad.sym_size(0) == first.sym_size(0) && grad.sym_size(1) == first.sym_size(1) &&
                  grad.sym_size(2) == g.sym_size(2),
              who, ": grad must be [", first.sym_size(0), ", ", first.sym_size(1), ", ", g.sym_size(2),
              "] like the result, got ", grad.sym_sizes());
}

void check_pairs(const char* who, const Tensor& theta, const Tensor& phi, const Tensor& g) {
  TORCH_CHECK(theta.dim() == 3 && at::isFloatingType(theta.scalar_type()), who,
              ": theta must be [B, N, I] of a floating type, got ", theta.sym_sizes(), " of ", theta.scalar_type());
  check_pair_type(who, "phi", phi, "theta", theta);
  check_pair_type(who, "g", g, "theta", theta);
  TORCH_CHECK(phi.dim() == 3 && phi.sym_size(0) == theta.sym_size(0) && phi.sym_size(1) >= 1 &&
                  phi.sym_size(2) == theta.sym_size(2),
              who, ": phi must be [", theta.sym_size(0), ", M >= 1, ", theta.sym_size(2), "], got ", phi.sym_sizes());
  TORCH_CHECK(g.dim() == 3 && g.sym_size(0) == phi.sym_size(0) && g.sym_size(1) == phi.sym_size(1), who,
              ": g must be [", phi.sym_size(0), ", ", phi.sym_size(1), ", V], got ", g.sym_sizes());
}

}  // namespace loci
