// Windows of a token stream as batches. B windows of T tokens: input [B, T], target [B, T], the target one token ahead.
#pragma once

#include <cstdint>

#include "loci/data/epoch_order.h"
#include "loci/data/text/token_span.h"

namespace loci {

// Training: a batch is a pure function of (seed, step, micro). An epoch visits the windows at phase + i * T once, in a
// permuted order; phase and order differ from epoch to epoch.
class WindowSampler {
 public:
  // A step takes `micro_batches` batches, with micro = 0 .. micro_batches-1. Throws Error (input) when the tokens are
  // too few for one batch of different windows.
  WindowSampler(TokenSpan tokens, int64_t window, int64_t batch, uint64_t seed, int64_t micro_batches = 1);

  void fill(int64_t step, int64_t micro, int64_t* input, int64_t* target) const;
  int64_t windows_per_epoch() const { return order_.items(); }

 private:
  TokenSpan tokens_;
  int64_t window_;
  int64_t batch_;
  uint64_t seed_;
  int64_t micro_batches_;
  EpochOrder order_;  // of the windows
  int64_t phases_;
};

// Evaluation: the stream once, front to back, each token but the first a target exactly once. What fills up the last
// window and the last batch has target kNoTarget, which torch's cross entropy leaves out.
class EvaluationWindows {
 public:
  static constexpr int64_t kNoTarget = -100;

  EvaluationWindows(TokenSpan tokens, int64_t window, int64_t batch);

  int64_t batches() const { return (windows_ + batch_ - 1) / batch_; }
  // Returns the number of targets that count.
  int64_t fill(int64_t index, int64_t* input, int64_t* target) const;

 private:
  TokenSpan tokens_;
  int64_t window_;
  int64_t batch_;
  int64_t windows_;
};

}  // namespace loci
