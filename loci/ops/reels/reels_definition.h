// What the definitions of reels.h share with their CPU path and with tests. seed and stream: the bits of ReelSource's.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace loci {

void check_reels(const char* who, const c10::SymInt& reels);
void check_reel_scores(const char* who, const at::Tensor& scores);
void check_reel_gradient(const char* who, const at::Tensor& grad, const at::Tensor& choice, const c10::SymInt& reels);
void check_reel_step(const at::Tensor& scores, const std::optional<at::Tensor>& velocity, const at::Tensor& weight,
                     const at::Tensor& choice, const at::Tensor& grad, double momentum);

at::Tensor reel_values_definition(const at::Tensor& like, c10::SymInt reels, int64_t seed, int64_t stream,
                                  double bound);
std::tuple<at::Tensor, at::Tensor> reel_weights_definition(const at::Tensor& scores, int64_t seed, int64_t stream,
                                                           double bound, int64_t draw, bool chosen_only);
at::Tensor reel_score_gradient_definition(const at::Tensor& grad, const at::Tensor& choice, c10::SymInt reels,
                                          int64_t seed, int64_t stream, double bound, bool chosen_only);
void reel_step_definition(const at::Tensor& scores, const std::optional<at::Tensor>& velocity, const at::Tensor& weight,
                          const at::Tensor& choice, const at::Tensor& grad, int64_t seed, int64_t stream, double bound,
                          double rate, double momentum, double decay, double divisor, bool nesterov, bool chosen_only,
                          bool choose);

}  // namespace loci
