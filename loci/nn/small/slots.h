// Slots: a text of many sentences is compressed into few vectors, which a decoder reads and overwrites by content. It
// implements the idea of Park et al. 2020 ("Mem2Mem: Learning to summarize long texts with memory compression and
// transfer", arXiv 2010.11322), of which we know the abstract alone; the formulas are ours.
//
// Legend: B texts, N sentences, r slots, d width, S width of the decoder's state, I inner width.
//
//   CompressToSlots   H [B, N, d] -> A = softmax over N of W_2 tanh(W_1 H^T)     [B, r, N]
//                                    M_0 = A H                                   [B, r, d]
//                                    penalty = |A A^T - I|_F^2                   [B]
//   SlotMemory        read    w = softmax over r of M W_q s / sqrt(d)            [B, r]
//                             c = w^T M                                          [B, d]
//                     write   e = sigmoid(W_e s + b_e), a = tanh(W_a s)          [B, d]
//                             M := M o (1 - w e^T) + w (e o a)^T
//
// The penalty is 0 where each slot looks at one sentence of its own. A write moves every entry of M between itself and
// an entry of a, so that entries of M stay within max(|M_0|, 1), up to rounding. Sentences outside the mask have weight
// 0, and what stands there never changes a bit of the result; a text without sentences has M_0 = 0.
//
// Everything is computed in the parameters' type, under autocast too.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>

namespace loci {

struct CompressedSlots {
  at::Tensor slots;    // M_0 [B, r, d]
  at::Tensor weight;   // A [B, r, N]
  at::Tensor penalty;  // [B]
};

class CompressToSlots : public torch::nn::Module {
 public:
  // Weights start as N(0, 1 / inputs) by counter from (seed, name). inner 0: as wide as d. Throws Error (usage).
  CompressToSlots(const std::string& name, int64_t width, int64_t slots, uint64_t seed, int64_t inner = 0);

  // mask [B, N] bool: the sentences of each text; undefined: all are.
  CompressedSlots forward(const at::Tensor& sentences, const at::Tensor& mask = {}) const;

  at::Tensor inner_weight;  // W_1 [I, d]
  at::Tensor slot_weight;   // W_2 [r, I]
};

// |A A^T - I|_F^2 of each weight [B, r, N]: [B].
at::Tensor slot_penalty(const at::Tensor& weight);

struct SlotRead {
  at::Tensor content;  // c [B, d]
  at::Tensor weight;   // w [B, r]
};

// What is read and written is given and returned: the memory itself keeps its parameters alone.
class SlotMemory : public torch::nn::Module {
 public:
  // Weights as above; b_e starts at -2, so that a first write changes little. Throws Error (usage).
  SlotMemory(const std::string& name, int64_t width, int64_t state_width, uint64_t seed);

  // slots M [B, r, d], state s [B, S]. mask [B, r] bool: the slots that are; undefined: all. At least one of a text.
  SlotRead read(const at::Tensor& slots, const at::Tensor& state, const at::Tensor& mask = {}) const;
  // The slots after a write at weight w [B, r], which is that of a read.
  at::Tensor write(const at::Tensor& slots, const at::Tensor& state, const at::Tensor& weight) const;

  at::Tensor query_weight;  // W_q [d, S]
  at::Tensor erase_weight;  // W_e [d, S]
  at::Tensor erase_bias;    // b_e [d]
  at::Tensor add_weight;    // W_a [d, S]
};

}  // namespace loci
