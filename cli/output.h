// Results go to standard output, everything else to standard error.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

namespace loci::cli {

// Nobody reads standard output any more: the program ends quietly.
struct OutputClosed {};

// Writes all of it at once. Throws OutputClosed, or Error (resources) when a disk is full.
void print(std::string_view text);
// A line of JSON, or more with an indentation. It is ASCII: other characters are escaped, so that a terminal obeys
// nothing in it, and what is not UTF-8 (a file's name may be any bytes) becomes U+FFFD.
void print_json(const nlohmann::json& value, int indentation = -1);
// A line or lines for people, on standard error.
void note(std::string_view text);

}  // namespace loci::cli
