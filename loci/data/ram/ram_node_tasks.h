// The tasks of linked nodes: listk, listsearch, walkbst. ram_tasks.h is their front door.
#pragma once

#include "loci/data/ram/ram_tasks.h"

namespace loci {

RamTask listk_task(bool out_pointer);
RamTask listsearch_task(bool out_pointer);
RamTask walkbst_task(bool out_pointer);

}  // namespace loci
