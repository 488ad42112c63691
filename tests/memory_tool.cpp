// A memory layer behind a command line, for the comparison with the modules of Python (python/tests/test_memory.py).
//   memory_tool OPTIONS.toml INPUT OUTPUT
// INPUT has x and grad [S, T, d] of S steps. Each step is a forward pass in training, the backward pass from grad, and
// a step of the rows. OUTPUT gets y [S, T, D], the parameters' summed gradients as "grad.NAME", parameters and buffers
// by their names, and the rows of each table.
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/nn/memory/flat_key_memory.h"
#include "loci/nn/memory/ngram_memory.h"
#include "loci/nn/memory/peer_memory.h"
#include "loci/optim/row_optimizer.h"
#include "loci/table/local_table.h"
#include "loci/train/tensor_file.h"

namespace {

using at::Tensor;

enum class Kind { product, flat, peer, ngram };

struct Description {
  Kind kind = Kind::product;
  int64_t rows = 1;
  int64_t value_width = 1;
  std::string dtype = "float32";
  loci::ProductKeyMemoryOptions layer;
  loci::NgramMemoryOptions ngram;  // of tokens below `vocabulary`
  int64_t vocabulary = 1;
  loci::RowOptimizerOptions optimizer;

  void fields(loci::ConfigFields& f) {
    f.choice("kind", kind, "of memory",
             {{"product", Kind::product}, {"flat", Kind::flat}, {"peer", Kind::peer}, {"ngram", Kind::ngram}});
    f.field("rows", rows, "of a table");
    f.field("value_width", value_width, "of a row");
    f.choice("dtype", dtype, "of rows", {"float32", "bfloat16"});
    f.field("vocabulary", vocabulary, "of tokens");
    f.section("layer", layer);
    f.section("ngram", ngram);
    f.section("table_optimizer", optimizer);
  }
};

loci::TablePtr table_of(const Description& d, const char* name, int64_t width) {
  const auto dtype = d.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
  auto table = std::make_shared<loci::LocalTable>(name, d.rows, width, loci::LocalTableOptions{dtype});
  table->store().initialise_normal(1, 0.5);
  return table;
}

// tokens [S, B, L]: of n-grams, whose x is [S, B, L, d].
std::vector<std::pair<std::string, Tensor>> run(Description d, const Tensor& x, const Tensor& grad,
                                                const Tensor& tokens) {
  std::vector<loci::TablePtr> tables = {table_of(d, "memory.values", d.value_width)};
  std::shared_ptr<loci::MemoryLayer> layer;
  std::shared_ptr<loci::NgramMemory> ngram;
  if (d.kind == Kind::ngram) {
    d.ngram.width = x.size(3);
    ngram = std::make_shared<loci::NgramMemory>("memory", d.ngram, tables[0], d.vocabulary, 1);
  }
  if (d.kind == Kind::product) layer = std::make_shared<loci::ProductKeyMemory>("memory", d.layer, tables[0], 1);
  if (d.kind == Kind::flat) layer = std::make_shared<loci::FlatKeyMemory>("memory", d.layer, tables[0], 1);
  if (d.kind == Kind::peer) {
    tables.push_back(table_of(d, "memory.down", d.layer.width));
    layer = std::make_shared<loci::PeerMemory>("memory", d.layer, tables[1], tables[0], 1);
  }
  std::vector<loci::RowOptimizer> optimizers;
  for (const loci::TablePtr& table : tables) optimizers.emplace_back(table->store(), d.optimizer, 7);
  std::vector<Tensor> outputs;
  for (int64_t step = 0; step < x.size(0); ++step) {
    const Tensor y = ngram ? ngram->forward(x[step], ngram->rows(tokens[step], at::zeros_like(tokens[step], at::kBool)))
                           : layer->forward(x[step]);
    y.backward(grad[step]);
    outputs.push_back(y.detach());
    for (loci::RowOptimizer& optimizer : optimizers) optimizer.step();
  }
  std::vector<std::pair<std::string, Tensor>> found = {{"y", at::stack(outputs)}};
  const torch::nn::Module& module = ngram ? static_cast<torch::nn::Module&>(*ngram) : *layer;
  for (const auto& parameter : module.named_parameters()) {
    found.emplace_back(parameter.key(), parameter.value().detach());
    if (parameter.value().grad().defined()) found.emplace_back("grad." + parameter.key(), parameter.value().grad());
  }
  for (const auto& buffer : module.named_buffers()) found.emplace_back(buffer.key(), buffer.value());
  for (const loci::TablePtr& table : tables) found.emplace_back(table->name(), table->store().values().detach());
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 4) {
      Description description;
      loci::Config::from_file(argv[1]).read(description);
      const auto input = loci::read_tensors(argv[2]);
      const Tensor tokens = input.contains("tokens") ? input.at("tokens") : Tensor();
      return loci::write_tensors(argv[3], run(description, input.at("x"), input.at("grad"), tokens)), 0;
    }
  } catch (const loci::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  std::fprintf(stderr, "memory_tool OPTIONS.toml INPUT OUTPUT\n");
  return 2;
}
