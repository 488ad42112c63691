#include "loci/train/version.h"

namespace loci {

std::string_view version() {
  return LOCI_VERSION;
}

}  // namespace loci
