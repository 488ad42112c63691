// Which rows of a table are in which files of a checkpoint.
//
// A run of one process writes a table as one part, a run of P processes as P parts of consecutive rows; a process
// without rows writes none.
//
//   one part                             part 2 of 4
//   table.NAME.safetensors               table.NAME.part-2-of-4.safetensors               base
//   optimizer.NAME.safetensors           optimizer.NAME.part-2-of-4.safetensors           beside it, and so counters
//   table.NAME.delta-STEP.safetensors    table.NAME.part-2-of-4.delta-STEP.safetensors    rows changed since
//
// Rows of a delta are numbered from the first row of its part. The manifest's member "tables" has for each table
// {"base", "deltas"}, or {"parts"}: a list of {"first", "rows", "base", "deltas"} in the order of rows.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "loci/train/checkpoint_folder.h"

namespace loci {

struct TableDelta {
  std::string file;
  int64_t rows = 0;  // that it changes
};

struct TablePart {
  std::string base;
  std::vector<TableDelta> deltas;  // in the order in which they are applied
  int64_t first = 0;               // row of the table
  int64_t rows = 0;

  // The file "optimizer" or "counters" of the same rows.
  std::string beside(const std::string& kind) const;
  std::string delta_file(int64_t step) const;
  nlohmann::json to_json(bool alone) const;  // `alone`: the entry of a table in one part
};

// The base of a table in one part, or of part `part`, counted from 0, of `parts`.
std::string base_file(const std::string& table, int64_t part = 0, int64_t parts = 1);

// The entry of a table from those of its parts, null for one without rows. Throws Error (bug) unless each begins where
// the one before it ends.
nlohmann::json entry_of_parts(const std::string& table, const std::vector<nlohmann::json>& parts);

// The parts of a manifest's entry; one that is alone has as many rows as `rows` says. Throws nlohmann::json::exception.
std::vector<TablePart> parts_of_entry(const nlohmann::json& entry, int64_t rows);

constexpr int64_t kAnyRows = -1;

// The parts of a table, in the order of rows. Throws Error (input) unless they hold `rows` rows without holes and
// overlaps. With kAnyRows they may hold any number, and that of a part which is alone is unknown: kAnyRows.
std::vector<TablePart> parts_of(const CheckpointReader& checkpoint, const std::string& table, int64_t rows);

std::vector<std::string> tables_in(const CheckpointReader& checkpoint);  // their names
bool has_table(const CheckpointReader& checkpoint, const std::string& table);

}  // namespace loci
