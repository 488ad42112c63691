// The version of this library, as in CMakeLists.txt.
#pragma once

#include <string_view>

namespace loci {

std::string_view version();

}  // namespace loci
