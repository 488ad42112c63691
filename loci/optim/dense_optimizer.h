// Update rules for dense parameters: one interface, AdamW and SGD behind it; random_bases.h,
// shift_adamax.h and seed_adam.h are others.
//
// A rule owns the state of its parameters and updates those that it is asked to, from their gradients. What concerns
// all parameters together (clipping, steps that are not finite, the schedule, ranks) is the caller's: OptimizerSet.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/optim/random_bases_options.h"
#include "loci/optim/schedule.h"

namespace loci {

// One update by SGD: g = gradient / divisor + decay * p; v <- momentum * v + g; p <- p - rate * v, or with Nesterov's
// momentum p - rate * (g + momentum * v).
struct SgdUpdate {
  double rate = 0;
  double momentum = 0;
  double decay = 0;
  double divisor = 1;
  bool nesterov = false;
};

// An update of one's own, for a parameter that is made of a larger tensor: its gradient reaches `trained` without that
// one's gradient in memory. The rule keeps the velocity of `trained`, undefined without momentum.
struct OwnUpdate {
  at::Tensor trained;  // undefined: the rule's update
  std::function<void(const at::Tensor& gradient, const at::Tensor& velocity, const SgdUpdate& update)> apply;
};

struct NamedParameter {
  std::string name;
  at::Tensor value;
  bool decay = true;
  bool embedding = false;  // a row for each token or class: its rate is embedding_rate times the others'
  double rate = 1;         // factor on the learning rate of this parameter, and so on its decay
  // Called without gradients after each update of this parameter; may change it (clipping to a range).
  std::function<void(at::Tensor& value)> after_update = {};
  OwnUpdate own = {};  // sgd alone knows it
};

class DenseOptimizer {
 public:
  virtual ~DenseOptimizer() = default;
  // Updates `parameters`, each one of the rule's own with a gradient, from their gradients divided by `divisor`, at
  // `rate` times the factor of their group. The gradients may be overwritten.
  virtual void step(const std::vector<at::Tensor>& parameters, double rate, double divisor) = 0;
  // Whether the rule asks for losses in place of gradients. Then `loss` gives that of the batch for the parameters as
  // they are at the call; all are updated. Returns false where a loss was not finite and nothing was changed.
  virtual bool by_losses() const { return false; }
  virtual bool step_by_losses(const std::function<double()>& /*loss*/, double /*rate*/) { return false; }
  // State tensors by name ("NAME.moment1"), to save and to copy into.
  virtual std::vector<std::pair<std::string, at::Tensor>> state() const = 0;
  // Forgets the state of a parameter.
  virtual void clear(const at::Tensor& parameter) = 0;
  // Forgets the state of some of its rows, whose values were replaced. A row is a vector of the last dimension; `rows`
  // [U] int64 numbers them in row-major order of the other dimensions. First moments and velocities become 0. Second
  // moments become the mean over the rows `like` [V] int64, 0 where they are not given. (The count of updates is that
  // of the whole parameter and stays: a second moment of 0 makes the next update 3 times the rate and more.)
  virtual void clear_rows(const at::Tensor& parameter, const at::Tensor& rows, const at::Tensor& like) = 0;
};

// For rules: sets rows of a moment, which must be contiguous, to 0 or to the mean over the rows `like`. Same bits for
// any thread count.
void reset_moment_rows(const at::Tensor& moment, const at::Tensor& rows, const at::Tensor& like = {});

enum class DenseRule { adamw, sgd, random_bases, shift_adamax };

// [optimizer]
struct DenseOptimizerOptions {
  DenseRule kind = DenseRule::adamw;
  double learning_rate = 3e-3;
  double embedding_rate = 1;      // factor on the learning rate of embeddings, and so on their decay
  double beta1 = 0.9;             // adamw, shift_adamax
  double beta2 = 0.95;            // adamw, shift_adamax
  double epsilon = 1e-8;          // adamw
  double momentum = 0.9;          // sgd; 0: no state
  bool nesterov = false;          // sgd
  double weight_decay = 0.1;      // on matrices; gains, biases and keys have none
  double clip_norm = 1;           // of all dense gradients together; 0: off
  RandomBasesOptions bases = {};  // random_bases
  ScheduleOptions schedule;
  void fields(ConfigFields& f);
  void check() const;           // throws Error (usage)
  int64_t state_bytes() const;  // for each float32 parameter, with what a step needs beside it
};

// The rule that the options name, with the formulas of torch.optim: AdamW decays p <- p (1 - rate * decay), SGD adds
// decay * p to the gradient and keeps v <- momentum * v + g; or random_bases.h, whose directions are those of `seed`,
// or shift_adamax.h. Parameters are float32 or float64, dense in memory with any order of dimensions (channels last);
// their state has the same strides. Same bits for any thread count. Throws Error (usage) for a parameter with an update
// of its own where the rule is another than SGD.
std::unique_ptr<DenseOptimizer> make_dense_optimizer(const DenseOptimizerOptions& options,
                                                     const std::vector<NamedParameter>& parameters, uint64_t seed);

}  // namespace loci
