// The tasks of linked nodes: listk, listsearch, walkbst. Use ram_task() of ram_tasks.h to get one.
#pragma once

#include "loci/data/ram/ram_tasks.h"

namespace loci {

RamTask listk_task(bool out_pointer);
RamTask listsearch_task(bool out_pointer);
RamTask walkbst_task(bool out_pointer);

}  // namespace loci
