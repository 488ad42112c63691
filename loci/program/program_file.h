// Programs as JSON files:
//
//   {"format": "loci-ram-program", "version": 1, "registers": R, "repeats": k, "modules": ["READ", "ZERO", ...],
//    "circuits": [{"modules": [[0], [], null, [4, 1], ...], "registers": [0, 7], "stop": false}, ...],
//    "table": [0, -1, ...]}
//
// A circuit lists each module's operands (null: pruned) and each register's source, numbered as in circuit.h; the table
// gives the circuit of each pattern of zero registers (bit i: register i is zero), -1 for an unseen one.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "loci/program/ram_program.h"

namespace loci {

std::string to_json(const RamProgram& program);

// Reading is strict: it refuses missing and unknown keys and every value out of range. Throws Error (input) that names
// `who`. `known` are the modules that the file may name.
RamProgram program_from_json(std::string_view text, std::string_view who = "program",
                             const std::vector<RamModule>& known = standard_modules());

void save_program(const RamProgram& program, const std::filesystem::path& path);
RamProgram load_program(const std::filesystem::path& path, const std::vector<RamModule>& known = standard_modules());

}  // namespace loci
