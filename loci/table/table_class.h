// A table as torch.classes.loci.Table. Its methods: table_class.cpp.
#pragma once

#include <torch/custom_class.h>

#include <utility>

#include "loci/table/table.h"

namespace loci {

struct TableObject : torch::CustomClassHolder {
  explicit TableObject(TablePtr table) : table(std::move(table)) {}
  TablePtr table;
};

}  // namespace loci
