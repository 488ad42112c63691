// Which reads of rows go to which rank, where rank p holds consecutive rows of a table. No torch, no messages.
//
// Legend: T tokens, K reads of a token, M = T K reads, P ranks, G segments.
//
// A segment is a (rank, token) pair with at least one read: the rank gets the segment's reads and returns one sum for
// all of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace loci {

struct ExchangePlan {
  // Reads by rank, token, read number: position[i] = t * K + k.
  std::vector<int64_t> position;       // [M]
  std::vector<int64_t> reads_to;       // [P]
  std::vector<int64_t> segment_token;  // [G], ascending for each rank
  std::vector<int32_t> segment_reads;  // [G]
  std::vector<int64_t> segments_to;    // [P]
};

// index [T, K]: rows within 0 .. first[P] - 1. first [P + 1], ascending from 0: rank p has the rows first[p] up to, but
// not including, first[p + 1], which may be none.
ExchangePlan plan_exchange(std::span<const int64_t> index, int64_t reads_a_token, std::span<const int64_t> first);

// Where P ranks begin that hold rows in equal parts, the first ones one row more: [P + 1].
std::vector<int64_t> equal_parts(int64_t rows, int64_t ranks);

}  // namespace loci
