// A block whose depth is the time of a differential equation (Chen et al. 2018, "Neural ordinary differential
// equations"; knobs: Massaroli et al. 2020, "Dissecting neural ODEs", arXiv 2002.08071). It wraps any block that keeps
// the shape of its input.
//
// Legend: B samples, C channels of x, A channels that are added, S depth, P pieces. Dimension 1 holds channels.
//
//   z(0) = start(x),  z' = f(s, z, x),  y = z(S)                                     x [B, C, ..]
//   start     same: x. zeros: [x, 0] of C + A channels. learned: W x + b of all channels of the state
//   order n   the state has n parts of C + A channels, z_1' = z_2 .. z_n' = f; without learned, z_2 .. start as 0
//   f         reads all parts [z_1 .. z_n], then x where data_control, then a channel of s where concat, and gives C +
//   A
//             channels. With one field per piece, piece p holds where s / S is in [p / P, (p + 1) / P).
//   depth     S is a number, or of each sample its own: S(x) = w_2 . tanh(W_1 mean(x) + b_1) + b_2, b_2 = 1 at the
//   start.
//             A negative S goes backward. absolute: |S(x)|.
//   y         the first C channels of z_1, so that the shape is kept, or with whole the state, [B, n (C + A), ..]
//
// f may be a module that takes (z), or (s, z) with s [], or [B] where depths are the samples' own. The equation is
// solved in the type of the parameters, without autocast; y has that of x.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/nn/small/ode_solve.h"

namespace loci {

enum class OdeStart { same, zeros, learned };
enum class OdeDepth { constant, own, absolute };

struct OdeBlockOptions {
  int64_t channels = 0;  // C; no field: the network has them
  double depth = 1;      // S; where depths are the samples' own, what their nets start at
  OdeDepth depth_kind = OdeDepth::constant;
  int64_t depth_width = 16;  // of W_1
  OdeStart start = OdeStart::same;
  int64_t added = 0;  // A
  int64_t order = 1;  // n
  bool data_control = false;
  bool concat = false;
  bool whole = false;  // no field
  OdeOptions solver;
  OdeGradientOptions gradient;
  // Of the knobs; [model.solver] and [model.gradient].
  void fields(ConfigFields& f);

  void check() const;  // throws Error (usage)
  int64_t part_channels() const { return channels + added; }
  int64_t state_channels() const { return order * part_channels(); }
  int64_t field_inputs() const { return state_channels() + (data_control ? channels : 0) + (concat ? 1 : 0); }
};

// A module as a field.
struct OdePart {
  std::shared_ptr<torch::nn::Module> module;
  std::function<at::Tensor(const at::Tensor& s, const at::Tensor& z)> forward;
  bool reads_depth = false;

  template <class M>
  static OdePart of(const std::shared_ptr<M>& module) {
    constexpr bool deep = requires(M& m, const at::Tensor& t) { at::Tensor(m.forward(t, t)); } &&
                          !requires(M& m, const at::Tensor& t) { at::Tensor(m.forward(t)); };
    OdePart part{.module = module, .forward = {}, .reads_depth = deep};
    if constexpr (deep) {
      part.forward = [module](const at::Tensor& s, const at::Tensor& z) { return module->forward(s, z); };
    } else {
      part.forward = [module](const at::Tensor&, const at::Tensor& z) { return module->forward(z); };
    }
    return part;
  }
};

class OdeBlock : public torch::nn::Module {
 public:
  template <class M>
  OdeBlock(const std::shared_ptr<M>& field, const OdeBlockOptions& options, uint64_t seed = 0)
      : OdeBlock(std::vector<OdePart>{OdePart::of(field)}, options, seed) {}
  // A field per piece. A fixed method's steps must be a multiple of the pieces.
  OdeBlock(std::vector<OdePart> pieces, const OdeBlockOptions& options, uint64_t seed = 0,
           const std::string& name = "ode");

  at::Tensor forward(const at::Tensor& x) const { return solve(x, {}).first; }
  // l(s, z) [B] of the whole state z [B, n (C + A), ..] and s as fields get it; the second result is its integral over
  // the depth [B].
  using Loss = std::function<at::Tensor(const at::Tensor& s, const at::Tensor& z)>;
  std::pair<at::Tensor, at::Tensor> forward_with_loss(const at::Tensor& x, const Loss& loss) const {
    return solve(x, loss);
  }

  // Without gradients, by `steps` steps of rk4 (rounded up to a multiple of the pieces): the whole states at all ends
  // of steps, the start first.
  std::vector<at::Tensor> path(const at::Tensor& given, int64_t steps) const;
  // S of each sample [B], or a number [].
  at::Tensor depth(const at::Tensor& x) const;
  at::Tensor start(const at::Tensor& x) const;  // the whole state

  const OdeBlockOptions& options() const { return options_; }
  const OdeCounts& counts() const { return *counts_; }  // of the last forward, and of its backward

 private:
  std::pair<at::Tensor, at::Tensor> solve(const at::Tensor& given, const Loss& loss) const;
  OdeFieldOf field_of(size_t piece, const Loss& loss) const;
  // Of the field: x where it is seen, and depths of the samples' own.
  std::vector<at::Tensor> inputs_of(const at::Tensor& x, const at::Tensor& own_depth) const;
  OdeState state_of(const at::Tensor& x) const;
  at::Tensor own_depth(const at::Tensor& x) const;  // undefined where it is constant
  at::Tensor output_of(const OdeState& z) const;
  std::vector<at::Tensor> theta() const;
  at::Tensor in_type(const at::Tensor& x) const;  // of the parameters
  std::pair<double, double> ends(size_t piece) const;

  OdeBlockOptions options_;
  std::vector<OdePart> pieces_;
  at::Tensor start_weight_, start_bias_;                                  // [n (C + A), C], [n (C + A)]
  at::Tensor depth_weight1_, depth_bias1_, depth_weight2_, depth_bias2_;  // [H, C], [H], [1, H], [1]
  std::shared_ptr<OdeCounts> counts_ = std::make_shared<OdeCounts>();
};

}  // namespace loci
