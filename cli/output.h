// Results go to standard output, everything else to standard error.
#pragma once

#include <string_view>

namespace loci::cli {

// Nobody reads standard output any more: the program ends quietly.
struct OutputClosed {};

// Writes all of it at once. Throws OutputClosed, or Error (resources) when a disk is full.
void print(std::string_view text);
// A line or lines for people, on standard error.
void note(std::string_view text);

}  // namespace loci::cli
