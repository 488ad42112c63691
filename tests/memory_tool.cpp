// A memory layer behind a command line, for the comparison with the modules of Python (python/tests/test_memory.py).
//   memory_tool OPTIONS.toml INPUT OUTPUT
// INPUT has x and grad [S, ..., d] of S steps. Each step is a forward pass in training, the backward pass from grad,
// and a step of the rows. OUTPUT gets y [S, ..., D], the parameters' summed gradients as "grad.NAME", parameters and
// buffers by their names, and the rows of each table. INPUT may have, too:
//   tokens [S, B, L]      of n-grams, whose x is [S, B, L, d]
//   mask [S, ...] bool    of the tokens that count
//   calibrate [T', d]     the layer is calibrated with these inputs before the first step, as memory number `number`
// With `renew` a step is one of a dense AdamW too, in place of sums of gradients, and the layer, which is layer 0, is
// re-initialised at the end of each window. OUTPUT gets the state of the optimisers, by its names, and `events` [E, 2]:
// redrawn sub-keys and refreshed rows.
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/nn/memory/calibrate.h"
#include "loci/nn/memory/flat_key_memory.h"
#include "loci/nn/memory/ngram_memory.h"
#include "loci/nn/memory/peer_memory.h"
#include "loci/nn/memory/side_memory.h"
#include "loci/optim/optimizer_set.h"
#include "loci/table/local_table.h"
#include "loci/tasks/reinitialisation.h"
#include "loci/train/tensor_file.h"

namespace {

using at::Tensor;
using Tensors = std::map<std::string, Tensor>;

enum class Kind { product, flat, peer, ngram, map, side };

struct Description {
  Kind kind = Kind::product;
  int64_t rows = 1;
  int64_t value_width = 1;
  std::string dtype = "float32";
  loci::ProductKeyMemoryOptions layer;
  loci::NgramMemoryOptions ngram;  // of tokens below `vocabulary`
  int64_t vocabulary = 1;
  loci::MemoryMapOptions map;
  loci::RowOptimizerOptions optimizer;
  int64_t number = 0;  // of calibration
  bool keep_values = false;
  bool renew = false;
  double row_deviation = 0.5;
  int64_t steps = 1;  // of the whole training, for reinitialise.until
  loci::ReinitialiseOptions reinitialise;

  void fields(loci::ConfigFields& f) {
    f.choice("kind", kind, "of memory",
             {{"product", Kind::product},
              {"flat", Kind::flat},
              {"peer", Kind::peer},
              {"ngram", Kind::ngram},
              {"map", Kind::map},
              {"side", Kind::side}});
    f.field("rows", rows, "of a table");
    f.field("value_width", value_width, "of a row");
    f.choice("dtype", dtype, "of rows", {"float32", "bfloat16"});
    f.field("vocabulary", vocabulary, "of tokens");
    f.field("number", number, "of the memory among those that are calibrated");
    f.field("keep_values", keep_values, "in calibration");
    f.field("renew", renew, "whether the layer is re-initialised");
    f.field("row_deviation", row_deviation, "of rows that are drawn anew");
    f.field("steps", steps, "of the whole training");
    f.section("layer", layer);
    f.section("ngram", ngram);
    f.section("map", map);
    f.section("table_optimizer", optimizer);
    f.section("reinitialise", reinitialise);
  }
};

// The layer of a description, of whatever kind.
struct Built {
  std::vector<loci::TablePtr> tables;
  std::shared_ptr<loci::MemoryLayer> layer;
  std::shared_ptr<loci::NgramMemory> ngram;
  std::shared_ptr<loci::MemoryMap> map;
  std::shared_ptr<loci::SideMemory> side;

  torch::nn::Module& module() const {
    if (ngram) return *ngram;
    if (map) return *map;
    return side ? static_cast<torch::nn::Module&>(*side) : *layer;
  }
  Tensor forward(const Tensor& x, const Tensor& tokens, const loci::BlockContext& context) const {
    if (ngram) return ngram->forward(x, ngram->rows(tokens, at::zeros_like(tokens, at::kBool)));
    if (map) return map->forward(x, context);
    return side ? side->forward(x, context) : layer->forward(x, context);
  }
};

loci::TablePtr table_of(const Description& d, const char* name, int64_t width) {
  const auto dtype = d.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
  auto table = std::make_shared<loci::LocalTable>(name, d.rows, width, loci::LocalTableOptions{dtype});
  table->store().initialise_normal(1, 0.5);
  return table;
}

Built build(Description d, const Tensor& x) {
  Built built;
  built.tables = {table_of(d, "memory.values", d.value_width)};
  const loci::TablePtr rows = built.tables[0];
  if (d.kind == Kind::ngram) {
    d.ngram.width = x.size(3);
    built.ngram = std::make_shared<loci::NgramMemory>("memory", d.ngram, rows, d.vocabulary, 1);
  }
  if (d.kind == Kind::map) built.map = std::make_shared<loci::MemoryMap>("memory", d.map, rows, 1);
  if (d.kind == Kind::side) built.side = std::make_shared<loci::SideMemory>("memory", d.map, rows, 1);
  if (d.kind == Kind::product) built.layer = std::make_shared<loci::ProductKeyMemory>("memory", d.layer, rows, 1);
  if (d.kind == Kind::flat) built.layer = std::make_shared<loci::FlatKeyMemory>("memory", d.layer, rows, 1);
  if (d.kind == Kind::peer) {
    built.tables.push_back(table_of(d, "memory.down", d.layer.width));
    built.layer = std::make_shared<loci::PeerMemory>("memory", d.layer, built.tables[1], rows, 1);
  }
  return built;
}

void calibrate_as_python(loci::MemoryLayer& layer, const Description& d, const Tensor& inputs) {
  loci::CalibrateOptions options;
  options.seed = loci::calibration_seed(3, d.number);
  options.keep_values = d.keep_values;
  loci::calibrate(dynamic_cast<loci::ProductKeyMemory&>(layer), inputs, options);
}

// All optimisers of a layer with the observers of its re-initialisation.
class Renewal {
 public:
  Renewal(const Description& d, const Built& built)
      : steps_(d.steps),
        usage_(std::make_shared<loci::Usage>(d.rows)),
        watch_({{0, std::dynamic_pointer_cast<loci::ProductKeyMemory>(built.layer), usage_.get()}}, d.reinitialise,
               d.row_deviation, 5) {
    std::vector<loci::NamedParameter> dense;
    for (const auto& parameter : built.layer->named_parameters()) dense.push_back({parameter.key(), parameter.value()});
    loci::DenseOptimizerOptions options;
    options.learning_rate = 1e-2;
    options.weight_decay = 0;
    options.clip_norm = 0;
    options.schedule.kind = loci::ScheduleKind::constant;
    options.schedule.warmup = 0;
    optimizers_ = std::make_unique<loci::OptimizerSet>(
        dense, options,
        std::vector<std::pair<loci::TablePtr, loci::RowOptimizerOptions>>{{built.tables[0], d.optimizer}}, 7);
    scopes_.emplace_back(*built.layer, usage_);
    watch_.observe(scopes_);
  }
  void step() {
    optimizers_->step(made_, steps_);
    std::vector<loci::TaskEvent> events;
    watch_.after_step({++made_, steps_, 0.0}, *optimizers_, events);
    for (const loci::TaskEvent& event : events) {
      if (event.line.at("kind") != "reinitialise") continue;
      events_.push_back(
          at::tensor({event.line.at("redrawn").get<int64_t>(), event.line.at("refreshed").get<int64_t>()}, at::kLong));
    }
    usage_->set_step(made_);
  }
  void add_results(std::vector<std::pair<std::string, Tensor>>& found) const {
    for (const auto& [name, tensor] : optimizers_->state()) found.emplace_back(name, tensor);
    found.emplace_back("events", at::stack(events_));
  }

 private:
  int64_t made_ = 0, steps_;
  std::shared_ptr<loci::Usage> usage_;
  loci::Reinitialisation watch_;
  std::unique_ptr<loci::OptimizerSet> optimizers_;
  std::deque<loci::ObserverScope> scopes_;
  std::vector<Tensor> events_;
};

std::vector<std::pair<std::string, Tensor>> run(const Description& d, const Tensors& input) {
  const Tensor &x = input.at("x"), &grad = input.at("grad");
  const Built built = build(d, x);
  if (input.contains("calibrate")) calibrate_as_python(*built.layer, d, input.at("calibrate"));
  const auto of_step = [&](const char* name, int64_t step) {
    return input.contains(name) ? input.at(name)[step] : Tensor();
  };
  std::vector<loci::RowOptimizer> optimizers;
  std::unique_ptr<Renewal> renewal;
  if (d.renew) {
    renewal = std::make_unique<Renewal>(d, built);
  } else {
    for (const loci::TablePtr& table : built.tables) optimizers.emplace_back(table->store(), d.optimizer, 7);
  }
  std::vector<Tensor> outputs;
  for (int64_t step = 0; step < x.size(0); ++step) {
    loci::BlockContext context;
    context.token_mask = of_step("mask", step);
    const Tensor y = built.forward(x[step], of_step("tokens", step), context);
    y.backward(grad[step]);
    outputs.push_back(y.detach());
    for (loci::RowOptimizer& optimizer : optimizers) optimizer.step();
    if (renewal) renewal->step();
  }
  std::vector<std::pair<std::string, Tensor>> found = {{"y", at::stack(outputs)}};
  for (const auto& parameter : built.module().named_parameters()) {
    found.emplace_back(parameter.key(), parameter.value().detach());
    const Tensor& sum = parameter.value().grad();
    if (sum.defined() && !renewal) found.emplace_back("grad." + parameter.key(), sum);
  }
  for (const auto& buffer : built.module().named_buffers()) found.emplace_back(buffer.key(), buffer.value());
  for (const loci::TablePtr& table : built.tables) {
    found.emplace_back(table->name(), table->store().values().detach());
  }
  if (renewal) renewal->add_results(found);
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 4) {
      Description description;
      loci::Config::from_file(argv[1]).read(description);
      return loci::write_tensors(argv[3], run(description, loci::read_tensors(argv[2]))), 0;
    }
  } catch (const loci::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  std::fprintf(stderr, "memory_tool OPTIONS.toml INPUT OUTPUT\n");
  return 2;
}
