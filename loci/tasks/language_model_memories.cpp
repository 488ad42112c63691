// What the task of a language model knows of its memories: counters of their reads, calibration, facts.
#include <ATen/ops/cat.h>

#include "loci/nn/memory/calibrate.h"
#include "loci/table/usage_over_ranks.h"
#include "loci/tasks/language_model.h"

namespace loci {
namespace {

nlohmann::json facts_of(int64_t layer, const UsageMetrics& m, const NgramCollisions& collisions) {
  nlohmann::json orders = nlohmann::json::array();
  for (const auto& [order, distinct, shared] : collisions.orders()) {
    orders.push_back({{"order", order}, {"distinct", distinct}, {"shared", shared}});
  }
  return {{"layer", layer}, {"usage", m.usage}, {"kl", m.kl}, {"orders", orders}};
}

}  // namespace

std::vector<LanguageModelTask::Counted> LanguageModelTask::counters() const {
  std::vector<Counted> result;
  for (const auto& [layer, memory] : model_->memories()) {
    result.push_back({layer, memory, std::make_shared<Usage>(memory->table()->rows())});
  }
  return result;
}

std::vector<LanguageModelTask::CountedNgrams> LanguageModelTask::ngram_counters() const {
  std::vector<CountedNgrams> result;
  for (const auto& [layer, memory] : model_->ngrams()) {
    result.push_back(
        {layer, memory, std::make_shared<Usage>(memory->table()->rows()), NgramCollisions(memory->addresses())});
  }
  return result;
}

std::deque<ObserverScope> LanguageModelTask::observe(const std::vector<Counted>& memories,
                                                     const std::vector<CountedNgrams>& ngrams) {
  std::deque<ObserverScope> scopes;
  for (const Counted& counted : memories) scopes.emplace_back(*counted.memory, counted.usage);
  for (const CountedNgrams& counted : ngrams) scopes.emplace_back(*counted.memory, counted.usage);
  return scopes;
}

// The measures are those of searched memories.
void LanguageModelTask::describe(const std::vector<Counted>& memories, const std::vector<CountedNgrams>& ngrams,
                                 Evaluation& evaluation) const {
  nlohmann::json facts = nlohmann::json::array();
  double usage = 0;
  double kl = 0;
  const auto count = static_cast<double>(memories.size());
  for (const Counted& counted : memories) {
    const UsageMetrics metrics = merged(*counted.usage, watch_.ranks()).metrics();
    usage += metrics.usage / count;
    kl += metrics.kl / count;
    facts.push_back(usage_facts(counted.layer, metrics));
  }
  evaluation.details["memories"] = facts;
  if (!memories.empty()) evaluation.values.insert(evaluation.values.end(), {usage, kl});
  if (ngrams.empty()) return;
  facts = nlohmann::json::array();
  for (const CountedNgrams& counted : ngrams) {
    facts.push_back(facts_of(counted.layer, merged(*counted.usage, watch_.ranks()).metrics(), counted.collisions));
  }
  evaluation.details["ngrams"] = facts;
}

// Each memory in turn, for the inputs of a later one change with those before it. The tokens are those of the steps to
// come, so that a resumed run sees the same.
void LanguageModelTask::calibrate_memories(int64_t step, OptimizerSet& optimizers) {
  const auto memories = model_->memories();
  for (size_t i = 0; i < memories.size(); ++i) {
    auto& memory = dynamic_cast<ProductKeyMemory&>(*memories[i].second);  // check_memory() refuses others
    std::vector<at::Tensor> inputs;
    for (int64_t have = 0; have < model_->options().memory.calibrate_tokens; have += units_per_micro_batch()) {
      const Batch batch = training_batch(step * batch_.accumulation + std::ssize(inputs));
      inputs.push_back(model_->memory_inputs(batch.input)[i]);
    }
    CalibrateOptions options;
    options.seed = calibration_seed(seed_, static_cast<int64_t>(i));
    calibrate(memory, at::cat(inputs), options);
    for (const at::Tensor& parameter : calibrated_parameters(memory)) optimizers.clear_state(parameter);
    optimizers.rows_of(*memory.table()).clear_state();
  }
  watch_.restarted(step);
}

// The memories as the evaluation counted their reads, and what was asked for.
Account LanguageModelTask::account(const Evaluation& evaluation, const AccountOptions& options) {
  refuse_lengths(options);
  refuse_places(options);
  refuse_poses(options);
  refuse_pictures(options);
  if (masked() && (options.by_context || !options.questions.empty())) {
    fail(ExitCode::usage, options.by_context ? "--by-context" : "--questions", "RUN must be a causal language model",
         "one that fills in masked tokens (model.causal is false)");
  }
  Account account;
  const auto value = [](const nlohmann::json& facts, const char* key) { return number_of(facts.at(key)); };
  for (const nlohmann::json& memory : evaluation.details.at("memories")) {
    account.text += fmt::format("memory in layer {}: usage {:.1f} %, as first {:.1f} %, KL {:.3f}, Gini {:.3f}\n",
                                memory.at("layer").get<int64_t>(), 100 * value(memory, "usage"),
                                100 * value(memory, "usage_at_1"), value(memory, "kl"), value(memory, "gini"));
  }
  for (const nlohmann::json& ngram : evaluation.details.value("ngrams", nlohmann::json::array())) {
    const auto layer = ngram.at("layer").get<int64_t>();
    account.text += fmt::format("n-grams {}: usage {:.1f} %, KL {:.3f}; rows shared",
                                layer < 0 ? "at the embedding" : fmt::format("in layer {}", layer),
                                100 * value(ngram, "usage"), value(ngram, "kl"));
    for (const nlohmann::json& order : ngram.at("orders")) {
      account.text += fmt::format(", order {}: {:.1f} % of {}", order.at("order").get<int64_t>(),
                                  100 * value(order, "shared"), order.at("distinct").get<int64_t>());
    }
    account.text += "\n";
  }
  if (options.by_context) add_loss_by_context(*options.by_context, account);
  if (!options.questions.empty()) add_answers(options.questions, account);
  return account;
}

}  // namespace loci
