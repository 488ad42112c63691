// Legend: R rows of a store, D width.
#include "loci/nn/memory/table_archive.h"

#include <torch/serialize/archive.h>

#include <string>

#include "loci/table/row_store.h"

namespace loci {
namespace {

std::string key_of(size_t table) {
  return "table_" + std::to_string(table);
}

void copy_saved(torch::serialize::InputArchive& archive, const std::string& key, const std::string& table,
                const at::Tensor& to) {
  at::Tensor saved;
  archive.read(key, saved, /*is_buffer=*/true);
  TORCH_CHECK(saved.scalar_type() == to.scalar_type() && saved.sizes() == to.sizes(), "table ", table, ": saved ", key,
              " must be ", to.scalar_type(), " ", to.sizes(), ", got ", saved.scalar_type(), " ", saved.sizes());
  to.detach().copy_(saved);
}

}  // namespace

void write_tables(const std::vector<TablePtr>& tables, torch::serialize::OutputArchive& archive) {
  for (size_t i = 0; i < tables.size(); ++i) {
    const RowStore& rows = tables[i]->store();
    torch::serialize::OutputArchive part(archive.compilation_unit());
    part.write("values", rows.values().detach(), /*is_buffer=*/true);  // [R, D]
    if (rows.scale()) part.write("scale", *rows.scale(), /*is_buffer=*/true);
    archive.write(key_of(i), part);
  }
}

void read_tables(torch::serialize::InputArchive& archive, const std::vector<TablePtr>& tables) {
  for (size_t i = 0; i < tables.size(); ++i) {
    RowStore& rows = tables[i]->store();
    torch::serialize::InputArchive part;
    archive.read(key_of(i), part);
    rows.write_all([&] {
      copy_saved(part, "values", rows.name(), rows.values());
      if (rows.scale()) copy_saved(part, "scale", rows.name(), *rows.scale());
    });
  }
}

}  // namespace loci
