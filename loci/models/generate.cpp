#include "loci/models/generate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "loci/base/check.h"
#include "loci/base/random.h"
#include "loci/nn/evaluation_scope.h"

namespace loci {
namespace {

void check_prompt(const TransformerLm& model, const std::vector<int64_t>& prompt, const GenerateOptions& options) {
  const auto refuse = [](const std::string& expected, const std::string& got) {
    fail(ExitCode::usage, "generate", expected, got);
  };
  if (prompt.empty()) refuse("prompt must hold at least one token", "none");
  const int64_t vocabulary = model.options().vocabulary;
  for (const int64_t token : prompt) {
    if (token < 0 || token >= vocabulary) {
      refuse(fmt::format("prompt must hold tokens within 0 .. {}", vocabulary - 1), std::to_string(token));
    }
  }
  if (options.tokens < 0) refuse("tokens must be at least 0", std::to_string(options.tokens));
  if (!(options.temperature >= 0) || std::isinf(options.temperature)) {
    refuse("temperature must be finite and at least 0", std::to_string(options.temperature));
  }
  if (options.top_k < 0) refuse("top_k must be at least 0", std::to_string(options.top_k));
}

}  // namespace

int64_t sample_token(const at::Tensor& logits, double temperature, int64_t top_k, double uniform) {
  const at::Tensor exact = logits.to(at::kDouble).contiguous();
  const auto* score = exact.const_data_ptr<double>();
  const int64_t size = exact.numel();
  std::vector<int64_t> token(static_cast<size_t>(size));
  std::iota(token.begin(), token.end(), int64_t{0});
  const auto better = [&](int64_t a, int64_t b) { return score[a] > score[b] || (score[a] == score[b] && a < b); };
  if (!exact.isfinite().all().item<bool>()) {
    fail(ExitCode::numbers, "generate", "logits must be finite", "NaN or infinity");
  }
  const int64_t best = *std::min_element(token.begin(), token.end(), better);
  if (temperature == 0) return best;
  if (top_k > 0 && top_k < size) {
    std::nth_element(token.begin(), token.begin() + top_k - 1, token.end(), better);
    token.resize(static_cast<size_t>(top_k));
    std::sort(token.begin(), token.end());
  }
  std::vector<double> cumulated;
  double sum = 0;
  for (const int64_t t : token) {
    sum += std::exp((score[t] - score[best]) / temperature);
    cumulated.push_back(sum);
  }
  const auto found = std::upper_bound(cumulated.begin(), cumulated.end(), uniform * sum);
  return token[static_cast<size_t>(std::min<int64_t>(found - cumulated.begin(), std::ssize(token) - 1))];
}

void generate(TransformerLm& model, std::vector<int64_t> prompt, const GenerateOptions& options,
              const std::function<bool(int64_t token)>& on_token) {
  check_prompt(model, prompt, options);
  const at::NoGradGuard guard;
  const EvaluationScope evaluation(model);
  const CounterRandom random(options.seed, "generate");
  const int64_t context = model.options().context;

  std::vector<int64_t> text = std::move(prompt);
  KeyValueCache cache;
  int64_t fresh = std::min<int64_t>(std::ssize(text), context);  // tokens at the end of `text` that the cache lacks
  for (int64_t i = 0; i < options.tokens; ++i) {
    if (cache.length + fresh > context) {
      cache = {};
      fresh = std::max<int64_t>(1, context / 2);
    }
    const std::vector<int64_t> next(text.end() - fresh, text.end());
    const at::Tensor logits = model.forward(at::tensor(next, at::kLong).unsqueeze(0), &cache);  // [1, fresh, V]
    const int64_t token =
        sample_token(logits[0][-1], options.temperature, options.top_k, random.uniform(static_cast<uint64_t>(i)));
    text.push_back(token);
    fresh = 1;
    if (!on_token(token)) return;
  }
}

}  // namespace loci
