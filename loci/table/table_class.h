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

// A class must be known before an operator or another class names it, and the order of static objects of several files
// is the linker's. Call this first where TableObject is named; later calls do nothing.
void register_table_class();

}  // namespace loci
