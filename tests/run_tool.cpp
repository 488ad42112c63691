// What C++ makes of a checkpoint that Python reads or wrote, for python/tests/test_saved_runs.py.
//   run_tool STEP_FOLDER INPUT OUTPUT
// A language model: INPUT has tokens, target, mask [B, L] and text [bytes]; OUTPUT gets logits [B, L, V], loss, encoded
// padded (with the mask) and bfloat16 (under autocast) [B, L, V].
// Memories without a model (memories.toml with the one section "memory"): INPUT has x [T, d]; OUTPUT gets y.
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/config.h"
#include "loci/nn/memory/memory_slot.h"
#include "loci/tasks/all.h"
#include "loci/tasks/language_model.h"
#include "loci/train/checkpoint.h"
#include "loci/train/precision.h"
#include "loci/train/recipe.h"
#include "loci/train/table_home.h"
#include "loci/train/tensor_file.h"

namespace {

using at::Tensor;
using loci::NamedTensors;
using NamedInputs = std::map<std::string, Tensor>;

NamedTensors of_language_model(const loci::CheckpointReader& checkpoint, const NamedInputs& input) {
  const auto config = loci::read_run_config(checkpoint.path().parent_path() / "config.toml", loci::all_tasks());
  const auto& plan = dynamic_cast<const loci::LanguageModelPlan&>(*config.plan);
  const loci::Tokenizer tokenizer = loci::load_tokenizer(checkpoint.file(loci::kTokenizerFile));
  loci::TransformerLm model(plan.model_for(tokenizer.vocabulary(), tokenizer.end_of_text()),
                            static_cast<uint64_t>(config.seed), loci::serving_tables(checkpoint));
  loci::load_model(checkpoint, model, model.tables());
  model.eval();
  const Tensor& text = input.at("text");
  const std::string_view bytes(static_cast<const char*>(text.const_data_ptr()), text.nbytes());
  const std::vector<int32_t> tokens = tokenizer.encode(bytes);
  Tensor encoded = at::empty({std::ssize(tokens)}, at::kLong);
  std::copy(tokens.begin(), tokens.end(), encoded.mutable_data_ptr<int64_t>());
  loci::BlockContext padding;
  padding.token_mask = input.at("mask");
  const auto under_autocast = [&] {
    const loci::PrecisionGuard bfloat16(true);
    return model.forward(input.at("tokens"));
  };
  return {{"padded", model.forward(input.at("tokens"), nullptr, padding)},
          {"bfloat16", under_autocast()},
          {"logits", model.forward(input.at("tokens"))},
          {"loss", model.loss(input.at("tokens"), input.at("target"))},
          {"encoded", encoded}};
}

struct Memories {
  loci::MemoryOptions memory;
  void fields(loci::ConfigFields& f) { f.section("memory", memory); }
};

NamedTensors of_memory(const loci::CheckpointReader& checkpoint, const NamedInputs& input) {
  Memories options;
  loci::Config::from_file(checkpoint.file("memories.toml")).read(options);
  std::vector<loci::TablePtr> tables;
  const auto memory =
      loci::make_memory(options.memory, "", options.memory.layer.width, 0, loci::make_local_table, tables);
  torch::nn::Module root;
  root.register_module("memory", memory);
  loci::load_model(checkpoint, root, tables);
  memory->eval();
  return {{"y", memory->forward(input.at("x"))}};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 4) {
      const at::NoGradGuard no_grad;
      at::set_num_threads(1);
      const loci::CheckpointReader checkpoint(argv[1]);
      const NamedInputs input = loci::read_tensors(argv[2]);
      const bool memory = checkpoint.has("memories.toml");
      return loci::write_tensors(argv[3], memory ? of_memory(checkpoint, input) : of_language_model(checkpoint, input)),
             0;
    }
  } catch (const loci::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  std::fprintf(stderr, "run_tool STEP_FOLDER INPUT OUTPUT\n");
  return 2;
}
