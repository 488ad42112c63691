// Legend: B batch.
#include "loci/models/pose_loss.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

namespace loci {
namespace {

using at::Tensor;

constexpr double kFirstRotationWeight = -3;  // r: Kendall and Cipolla 2017
constexpr double kLeastNorm = 1e-12;

Tensor lengths(const Tensor& x, int64_t order) {
  return at::linalg_vector_norm(x, order, at::IntArrayRef{-1});  // [B]
}

void check_prediction(const char* name, const Tensor& prediction, const Tensor& truth, int64_t width) {
  TORCH_CHECK(prediction.dim() == 2 && prediction.size(1) == width && prediction.sizes() == truth.sizes(),
              "pose_loss: ", name, " must be [B, ", width, "] like the true one, got ", prediction.sizes(), " and ",
              truth.sizes());
}

}  // namespace

void PoseLossOptions::fields(ConfigFields& f) {
  using Kind = PoseLossKind;
  f.choice<Kind>("kind", kind, "quaternions with a fixed weight, with learned weights, or their logarithms",
                 {{"beta", Kind::beta}, {"learned", Kind::learned}, {"logq", Kind::logq}});
  f.when(kind == Kind::beta, "kind is \"beta\"",
         [&] { f.field("beta", beta, "weight of rotations against metres", {.minimum = 0}); });
}

PoseLoss::PoseLoss(const PoseLossOptions& options) : Module("PoseLoss"), options_(options) {
  if (options.kind == PoseLossKind::beta) return;
  s = register_parameter("s", at::zeros({}));
  r = register_parameter("r", at::zeros({}) + kFirstRotationWeight);
}

std::pair<Tensor, Tensor> PoseLoss::targets(std::span<const Pose> poses) const {
  const auto count = static_cast<int64_t>(poses.size());
  Tensor position = at::empty({count, 3}), rotation = at::empty({count, rotation_width()});
  auto* t = position.mutable_data_ptr<float>();
  auto* q = rotation.mutable_data_ptr<float>();
  for (const Pose& pose : poses) {
    for (const double number : pose.position) *t++ = static_cast<float>(number);
    const Quaternion turn = canonical(pose.rotation);
    if (options_.kind == PoseLossKind::logq) {
      for (const double number : log_of(turn)) *q++ = static_cast<float>(number);
    } else {
      for (const double number : {turn.w, turn.x, turn.y, turn.z}) *q++ = static_cast<float>(number);
    }
  }
  return {position, rotation};
}

Tensor PoseLoss::forward(const Tensor& position, const Tensor& rotation, const Tensor& true_position,
                         const Tensor& true_rotation) {
  check_prediction("position", position, true_position, 3);
  check_prediction("rotation", rotation, true_rotation, rotation_width());
  const bool log = options_.kind == PoseLossKind::logq;
  const auto type = position.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor t = position.to(type), q = rotation.to(type);
  const Tensor turn = log ? q : q / lengths(q, 2).clamp_min(kLeastNorm).unsqueeze(1);
  const Tensor metres = lengths(t - true_position, log ? 1 : 2).mean();
  const Tensor turned = lengths(turn - true_rotation, log ? 1 : 2).mean();
  if (options_.kind == PoseLossKind::beta) return metres + options_.beta * turned;
  return metres * (-s).exp() + s + turned * (-r).exp() + r;
}

std::vector<Pose> PoseLoss::poses(const Tensor& position, const Tensor& rotation) const {
  const Tensor t = position.detach().to(at::kDouble).contiguous(), q = rotation.detach().to(at::kDouble).contiguous();
  check_prediction("position", t, t, 3);
  check_prediction("rotation", q, q, rotation_width());
  std::vector<Pose> poses(static_cast<size_t>(t.size(0)));
  const auto* numbers = q.const_data_ptr<double>();
  for (size_t i = 0; i < poses.size(); ++i, numbers += rotation_width()) {
    for (size_t axis = 0; axis < 3; ++axis) poses[i].position[axis] = t.const_data_ptr<double>()[3 * i + axis];
    poses[i].rotation = options_.kind == PoseLossKind::logq
                            ? exp_of({numbers[0], numbers[1], numbers[2]})
                            : canonical({numbers[0], numbers[1], numbers[2], numbers[3]});
  }
  return poses;
}

}  // namespace loci
