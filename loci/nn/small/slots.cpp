// Legend: B texts, N sentences, r slots, d width, S width of the decoder's state, I inner width.
#include "loci/nn/small/slots.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>

#include "loci/base/check.h"
#include "loci/nn/initialise.h"
#include "loci/nn/small/addressing.h"

namespace loci {

using at::Tensor;

namespace {

constexpr double kFirstEraseBias = -2;

void check_slot_width(const std::string& name, const char* which, int64_t width) {
  if (width < 1) fail(ExitCode::usage, name, fmt::format("{} must be at least 1", which), fmt::to_string(width));
}

Tensor slot_start(uint64_t seed, const std::string& name, int64_t outputs, int64_t inputs) {
  return normal_start(seed, name, {outputs, inputs}, 1 / std::sqrt(static_cast<double>(inputs)));
}

void check_slot_mask(const char* who, const Tensor& mask, int64_t B, int64_t count, const char* letters) {
  TORCH_CHECK(!mask.defined() ||
                  (mask.scalar_type() == at::kBool && mask.dim() == 2 && mask.size(0) == B && mask.size(1) == count),
              who, ": mask must be ", letters, " of Bool with ", B, " and ", count, ", got ", mask.sizes(), " of ",
              mask.scalar_type());
}

// x [B, n, d] with zeros outside the mask [B, n], for a weight of 0 does not undo a NaN.
Tensor present_rows(const Tensor& x, const Tensor& mask) {
  return mask.defined() ? x.masked_fill(mask.logical_not().unsqueeze(2), 0) : x;
}

void check_slots(const char* who, const Tensor& slots, const Tensor& state, const Tensor& query_weight) {
  TORCH_CHECK(
      slots.dim() == 3 && slots.size(1) > 0 && slots.size(2) == query_weight.size(0) && slots.is_floating_point(), who,
      ": slots must be [B, r, ", query_weight.size(0), "] of a floating type with r >= 1, got ", slots.sizes(), " of ",
      slots.scalar_type());
  TORCH_CHECK(state.dim() == 2 && state.size(0) == slots.size(0) && state.size(1) == query_weight.size(1) &&
                  state.is_floating_point(),
              who, ": state must be [", slots.size(0), ", ", query_weight.size(1), "] of a floating type, got ",
              state.sizes(), " of ", state.scalar_type());
}

}  // namespace

CompressToSlots::CompressToSlots(const std::string& name, int64_t width, int64_t slots, uint64_t seed, int64_t inner)
    : Module("CompressToSlots") {
  check_slot_width(name, "width", width);
  check_slot_width(name, "slots", slots);
  if (inner < 0) fail(ExitCode::usage, name, "inner must be at least 0", fmt::to_string(inner));
  const int64_t I = inner > 0 ? inner : width;
  inner_weight = register_parameter("inner_weight", slot_start(seed, name + ".inner_weight", I, width));
  slot_weight = register_parameter("slot_weight", slot_start(seed, name + ".slot_weight", slots, I));
}

CompressedSlots CompressToSlots::forward(const Tensor& sentences, const Tensor& mask) const {
  TORCH_CHECK(sentences.dim() == 3 && sentences.size(2) == inner_weight.size(1) && sentences.is_floating_point(),
              "CompressToSlots: sentences must be [B, N, ", inner_weight.size(1), "] of a floating type, got ",
              sentences.sizes(), " of ", sentences.scalar_type());
  check_slot_mask("CompressToSlots", mask, sentences.size(0), sentences.size(1), "[B, N]");
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  const Tensor H = present_rows(sentences.to(inner_weight.scalar_type()), mask);
  const Tensor score = at::linear(at::linear(H, inner_weight).tanh(), slot_weight);                     // [B, N, r]
  const Tensor A = read_weights(score.transpose(1, 2), mask.defined() ? mask.unsqueeze(1) : mask, {});  // [B, r, N]
  return {at::matmul(A, H), A, slot_penalty(A)};
}

Tensor slot_penalty(const Tensor& weight) {
  TORCH_CHECK(weight.dim() == 3 && weight.is_floating_point(),
              "slot_penalty: weight must be [B, r, N] of a floating type, got ", weight.sizes(), " of ",
              weight.scalar_type());
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  const Tensor products = at::matmul(weight, weight.transpose(1, 2));  // [B, r, r]
  return (products - at::eye(weight.size(1), weight.options())).square().sum(at::IntArrayRef{1, 2});
}

SlotMemory::SlotMemory(const std::string& name, int64_t width, int64_t state_width, uint64_t seed)
    : Module("SlotMemory") {
  check_slot_width(name, "width", width);
  check_slot_width(name, "state width", state_width);
  const auto weight = [&](const char* which) {
    return register_parameter(which, slot_start(seed, name + "." + which, width, state_width));
  };
  query_weight = weight("query_weight");
  erase_weight = weight("erase_weight");
  erase_bias = register_parameter("erase_bias", at::full({width}, kFirstEraseBias));
  add_weight = weight("add_weight");
}

SlotRead SlotMemory::read(const Tensor& slots, const Tensor& state, const Tensor& mask) const {
  check_slots("SlotMemory", slots, state, query_weight);
  check_slot_mask("SlotMemory", mask, slots.size(0), slots.size(1), "[B, r]");
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  const Tensor M = present_rows(slots.to(query_weight.scalar_type()), mask);
  const Tensor query = at::linear(state.to(M.scalar_type()), query_weight).unsqueeze(1);  // [B, 1, d]
  const Tensor score = address_scores(query, M, AddressScore::scaled_dot);                // [B, 1, r]
  const Tensor w = read_weights(score, mask.defined() ? mask.unsqueeze(1) : mask, {});
  return {at::matmul(w, M).squeeze(1), w.squeeze(1)};
}

Tensor SlotMemory::write(const Tensor& slots, const Tensor& state, const Tensor& weight) const {
  check_slots("SlotMemory", slots, state, query_weight);
  TORCH_CHECK(weight.dim() == 2 && weight.size(0) == slots.size(0) && weight.size(1) == slots.size(1) &&
                  weight.is_floating_point(),
              "SlotMemory: weight must be [", slots.size(0), ", ", slots.size(1), "] of a floating type, got ",
              weight.sizes(), " of ", weight.scalar_type());
  const c10::impl::ExcludeDispatchKeyGuard exact(c10::autocast_dispatch_keyset);
  const Tensor M = slots.to(query_weight.scalar_type()), s = state.to(M.scalar_type());
  const Tensor e = at::linear(s, erase_weight, erase_bias).sigmoid(), a = at::linear(s, add_weight).tanh();
  const Tensor share = weight.to(M.scalar_type()).unsqueeze(2) * e.unsqueeze(1);  // w e^T [B, r, d]
  return at::lerp(M, a.unsqueeze(1).expand_as(M), share);                         // M o (1 - w e^T) + (w e^T) o a
}

}  // namespace loci
