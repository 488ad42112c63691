// The curriculum of Neural Random-Access Machines: the difficulty of each batch.
//
// Level D rises by one, up to the maximum, when the error is below `threshold` and at least `gap` updates passed since
// the last rise. A draw: 10 % uniform over all difficulties; 25 % uniform in 1 .. D+e; 65 % D+e; e is geometric
// (0, 1, 2, ... with 1/2, 1/4, 1/8, ...). The error is a moving average over batches of difficulty D or more.
#pragma once

#include <cstdint>

#include "loci/base/random_sequence.h"

namespace loci {

struct CurriculumOptions {
  int64_t minimum = 1;
  int64_t maximum = 8;
  double threshold = 0.2;
  int64_t gap = 50;
};

// What a checkpoint keeps.
struct CurriculumState {
  int64_t level = 0;  // 0: the minimum
  int64_t updates_since_rise = 0;
  double error = 1;
  bool operator==(const CurriculumState&) const = default;
};

class Curriculum {
 public:
  explicit Curriculum(const CurriculumOptions& options, const CurriculumState& state = {});

  // The difficulty of the next batch, in minimum .. maximum. It takes exactly three numbers from the sequence.
  int64_t draw(RandomSequence& random) const;
  // Records the error of an update on a batch of this difficulty. True if the level rose.
  bool observe(int64_t difficulty, double error);

  const CurriculumState& state() const { return state_; }

 private:
  CurriculumOptions options_;
  CurriculumState state_;
};

}  // namespace loci
