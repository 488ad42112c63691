// What the ranks of a process group count together. Each rank counts the reads of its own tokens, of all rows of a
// table. Every rank calls these functions at the same time.
//
// Legend: N rows, P ranks. Of each row, over what the ranks count of it in the window:
//
//   reads     the sum, at most 2^31 - 1
//   heaviest  whether it was on some rank
//   weight    the sum in the order of ranks, in float64, rounded once
//   touched   the latest date, whatever the window
#pragma once

#include "loci/distributed/collectives.h"
#include "loci/table/row_store.h"
#include "loci/table/usage.h"

namespace loci {

// The same bits on all ranks. Of one rank: a view of `usage`. Each rank merges a part of the rows, in messages of
// 3 MiB, so a rank sends and gets 24 N bytes, whatever P is.
Usage merged(const Usage& usage, const Ranks& ranks);

// The rank that holds a row takes over what all ranks count of it, and the others forget it, so that a rank's part of
// state() says all of its rows: what a checkpoint in parts holds, and is copied into. merged() stays the same. here:
// the rows of this rank's store; each row is on one rank. One rank is left as it is.
void give_to_owners(Usage& usage, const RowRange& here, const Ranks& ranks);

}  // namespace loci
