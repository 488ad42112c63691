// The rows in which two states of a table differ, as a file: what finetuning changed, to be handed on without the
// table.
//
// A patch holds the table's name, dtype and shape, the sums (XXH3-128) of all rows before and after, the changed rows
// ascending ("row" [U] I64) and their new values ("values" [U, D] in the table's dtype).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "loci/table/safetensors.h"

namespace loci {

// A table as bytes, row by row.
template <typename Byte>
struct RowBytes {
  std::string name;
  DType dtype = DType::F32;
  int64_t rows = 0;
  int64_t width = 0;
  std::span<Byte> bytes;
};

// Writes the patch that turns `before` into `after`; returns the number of changed rows. Rows are compared by their
// bits. Throws Error (usage) when name, dtype or shape differ.
int64_t write_row_patch(const std::filesystem::path& path, const RowBytes<const std::byte>& before,
                        const RowBytes<const std::byte>& after);

// Writes the changed rows into `table`; returns their number, or 0 when the patch was applied before. Throws Error
// (input), with nothing changed, for a table of another name, dtype, shape or content, and for a broken file. A
// RowStore does not notice a write to its memory: call this inside write_all().
int64_t apply_row_patch(const std::filesystem::path& path, const RowBytes<std::byte>& table);

}  // namespace loci
