// Which rows a batch reads more than usual: the choice of rows for sparse memory finetuning, where a step trains the
// few rows that its batch is about and leaves all others as they are.
//
//   score(i) = c(i) / sum of c * ln((B + 1) / (b(i) + 1))
//
// c(i): reads of row i by the batch; B: batches of the background (ordinary text); b(i): those of them that read row i.
// (Lin et al. 2025, "Continual learning via sparse memory finetuning": tf-idf of rows.)
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "loci/table/read_observer.h"

namespace loci {

// Given to a layer as an observer, it counts each forward pass as a batch. 4 bytes a row, on pages that cost nothing
// until one of their rows is read.
class ReadBackground : public ReadObserver {
 public:
  explicit ReadBackground(int64_t rows);       // throws Error (usage) below 1
  ReadBackground(ReadBackground&&) = default;  // a copy would share its counters
  ReadBackground& operator=(ReadBackground&&) = default;

  void reads(const MemoryReads& reads) override;
  // One batch of ordinary text, with all the rows that it read, in any order and as often as they were read. A row out
  // of range throws Error (bug) and changes nothing.
  void add_batch(std::span<const int64_t> index);
  // The `most` rows of this batch with the largest scores, ascending; ties go to the lowest row. Fewer when the batch
  // read fewer.
  std::vector<int64_t> unusual_rows(std::span<const int64_t> index, int64_t most) const;

  int64_t rows() const { return rows_; }
  int64_t batches() const { return batches_; }
  std::span<const int32_t> reading_batches() const;  // b

  void save(const std::filesystem::path& path) const;
  static ReadBackground load(const std::filesystem::path& path);  // throws Error (input)

 private:
  std::vector<int64_t> counted(std::span<const int64_t> index) const;

  int64_t rows_;
  int64_t batches_ = 0;
  at::Tensor reading_;  // [N] int32
};

}  // namespace loci
