// The rows of a layer's tables in the archives of torch::save and torch::load, which otherwise hold parameters and
// buffers alone. A table is neither.
#pragma once

#include <vector>

#include "loci/table/table.h"

namespace torch::serialize {
class InputArchive;
class OutputArchive;
}  // namespace torch::serialize

namespace loci {

// A table that several layers share is written once. Optimiser state is not part of a network and stays out.
void write_tables(const std::vector<TablePtr>& tables, torch::serialize::OutputArchive& archive);
// Copies the rows into the tables that exist. Throws c10::Error for rows of another number, width or dtype.
void read_tables(torch::serialize::InputArchive& archive, const std::vector<TablePtr>& tables);

}  // namespace loci
