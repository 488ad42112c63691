// Where the tables of a run live: in memory, in working files of the run, or in a checkpoint that is served.
#pragma once

#include <filesystem>

#include "loci/distributed/collectives.h"
#include "loci/table/table_maker.h"
#include "loci/train/checkpoint_folder.h"

namespace loci {

// For training: tables whose home is `mapped` get files in `folder`, which is made when the first one is. `loaded`: a
// checkpoint will give every row, so none is drawn. On several ranks each has an equal part of the rows, or of the
// columns where the table's shard says so; a folder of its own for each rank. row_moment: TableReads.
TableMaker training_tables(std::filesystem::path folder, bool loaded, const Ranks& ranks = {}, bool row_moment = false);

// For use without training: tables whose home is `mapped`, int8 ones and those larger than half of the available memory
// are read where the checkpoint's files are. A table in several parts is read into memory; Error (resources) for a
// mapped one that takes more than half of it. On several ranks each reads its rows into memory.
TableMaker serving_tables(CheckpointReader checkpoint, const Ranks& ranks = {});

// Whether serving_tables() leaves a table of so many bytes in its file, where it is in one.
bool is_served_from_file(TableHome home, at::ScalarType dtype, int64_t bytes);

// A folder for working files that is empty at first and goes at the end, also when an error ends the run.
class WorkFolder {
 public:
  explicit WorkFolder(std::filesystem::path path);
  ~WorkFolder();
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace loci
