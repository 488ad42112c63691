// A summariser with few slots: sentences are encoded one by one and as a sequence, and a decoder reads what was
// compressed from them (nn/small/slots.h), or all of them, or nothing.
//
// Legend: B texts, N sentences, L words of a sentence, T words of a summary, r slots, e width of words, d width, V
// vocabulary.
//
//   words      v_n = last states of biGRU(E[words of n])                     [B, N, d]
//   sentences  H = biGRU(v)                                                  [B, N, d]
//   memory     none        nothing
//              attention   M = H, of the sentences that are
//              read        M = A H, r slots
//              read_write  the same, overwritten after each step
//   decode     s_0 = tanh(W_s [last states of H] + b_s)
//              read c_t from M by s; s = GRU([E y_t ; c_t], s); read_write: write by s
//              logits = W_o [s ; c_t] + b_o                                  [B, T, V]
//   loss       mean over words of a summary of -log p + lambda * mean over texts of |A A^T - I|_F^2
//
// GRUs start as the framework's: U(-h^(-1/2), h^(-1/2)) for h states; E as N(0, 1); other weights as N(0, 1 / inputs).
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/nn/small/slots.h"
#include "loci/optim/dense_optimizer.h"

namespace loci {

enum class SummaryMemory { none, attention, read, read_write };

// Sizes of a batch's text.
struct TextExtents {
  int64_t sentences = 0;  // N
  int64_t words = 0;      // L
  int64_t summary = 0;    // T
};

// [model]
struct SlotSummariserOptions {
  int64_t vocabulary = 0;  // V; no field: the data's
  SummaryMemory memory = SummaryMemory::read_write;
  int64_t slots = 12;      // r, for read and read_write
  double penalty = 0.02;   // lambda, for the same
  int64_t embedding = 64;  // e
  int64_t width = 128;     // d
  void fields(ConfigFields& f);

  void check() const;  // throws Error (usage)
  bool has_slots() const { return memory == SummaryMemory::read || memory == SummaryMemory::read_write; }
  int64_t content() const { return memory == SummaryMemory::none ? 0 : width; }  // numbers of c
  int64_t parameters() const;                                                    // that are trained
  int64_t multiply_adds(const TextExtents& text) const;                          // of one text and its summary
  double kept_numbers(const TextExtents& text) const;                            // that backward keeps of one text
};

struct SummaryLoss {
  at::Tensor total;    // scalar: log_loss + lambda * penalty
  at::Tensor words;    // scalar: nats a word
  at::Tensor penalty;  // scalar; 0 without slots
};

class SlotSummariser : public torch::nn::Module {
 public:
  // Parameters come by counter from (seed, name, position). Throws Error (usage).
  SlotSummariser(const SlotSummariserOptions& options, uint64_t seed);
  ~SlotSummariser() override;

  struct Encoded {
    at::Tensor memory;   // M_0 [B, n, d]; undefined: none
    at::Tensor mask;     // [B, n] bool; undefined: all are
    at::Tensor weight;   // A [B, r, N]; undefined without slots
    at::Tensor penalty;  // [B]; the same
    at::Tensor state;    // s_0 [B, d]
  };
  // words [B, N, L] int64, 0 for none: those of a sentence stand first in it, and its sentences first in a text of at
  // least one.
  Encoded encode(const at::Tensor& words) const;
  // summary [B, T] int64: what is to be written, its end too; -1 behind it. `begin`: the word before the first.
  SummaryLoss loss(const at::Tensor& words, const at::Tensor& summary, int64_t begin) const;
  // The likeliest word step by step, `steps` of them: [B, steps] int64. Behind `end` all are `end`.
  at::Tensor greedy(const Encoded& encoded, int64_t begin, int64_t end, int64_t steps) const;

  const SlotSummariserOptions& options() const { return options_; }
  std::vector<NamedParameter> dense_parameters() const;

 private:
  struct Bidirectional;
  struct Decoding {
    at::Tensor memory, state, content;
  };
  void step(Decoding& decoding, const at::Tensor& word, const at::Tensor& mask) const;
  at::Tensor logits(const at::Tensor& state, const at::Tensor& content) const;

  SlotSummariserOptions options_;
  at::Tensor embedding_;  // E [V, e]
  std::shared_ptr<Bidirectional> words_, sentences_;
  at::Tensor start_weight_, start_bias_;    // W_s [d, d], b_s [d]
  std::vector<at::Tensor> decoder_;         // [3 d, e + content], [3 d, d], [3 d], [3 d]
  at::Tensor output_weight_, output_bias_;  // W_o [V, d + content], b_o [V]
  std::shared_ptr<CompressToSlots> compress_;
  std::shared_ptr<SlotMemory> memory_;
};

}  // namespace loci
