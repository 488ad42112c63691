// What the option parser leaves to us: strict numbers, empty values, and a hint where a word is misspelt.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace loci::cli {

constexpr int64_t kLargestNumber = std::numeric_limits<int64_t>::max();

// Checks of an option's text. The parser itself takes the largest number for what is larger, -1 for an unsigned number
// and "nan" for one within any range.
CLI::Validator whole_number(int64_t least, int64_t most = kLargestNumber);
CLI::Validator real_number(double least, double most);

// Parses; wrong usage is an Error (usage) that names the nearest verb or option. CLI::CallForHelp and
// CLI::CallForVersion pass.
void parse_arguments(CLI::App& program, int argc, char** argv);

}  // namespace loci::cli
