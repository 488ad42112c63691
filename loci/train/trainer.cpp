#include "loci/train/trainer.h"

#include <c10/core/InferenceMode.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "loci/base/stop_signal.h"
#include "loci/train/precision.h"

namespace loci {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool due(int64_t step, int64_t every) {
  return every > 0 && step % every == 0;
}

class EvaluationMode {
 public:
  explicit EvaluationMode(torch::nn::Module& module) : module_(module), training_(module.is_training()) {
    module_.eval();
  }
  ~EvaluationMode() { module_.train(training_); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  torch::nn::Module& module_;
  bool training_;
};

}  // namespace

double number_of(const nlohmann::json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

nlohmann::json evaluate(Task& task, bool bfloat16) {
  const EvaluationMode mode(task.module());
  const c10::InferenceMode no_gradient;
  const PrecisionGuard precision(bfloat16);
  return task.evaluate();
}

Trainer::Trainer(Task& task, OptimizerSet& optimizers, TrainOptions options, RunDirectory& run, MetricsLog& log,
                 nlohmann::json facts, ProgressLine& progress, std::string label)
    : task_(task),
      optimizers_(optimizers),
      options_(std::move(options)),
      run_(run),
      log_(log),
      facts_(std::move(facts)),
      progress_(progress),
      label_(std::move(label)),
      tokens_per_step_(task.tokens_per_micro_batch() * options_.accumulation),
      steps_(options_.steps_for(tokens_per_step_)),
      bfloat16_(wants_bfloat16(options_.precision)) {}

bool Trainer::over(const TrainerState& state) const {
  return state.step >= steps_ || task_.finished();
}

bool Trainer::evaluation_due(const TrainerState& state) const {
  if (state.evaluated_step == state.step) return false;
  return over(state) || (state.step > 0 && due(state.step, options_.evaluate_every));
}

TrainerState Trainer::run(TrainerState state) {
  const StopSignal signals("stopping after this step and saving");
  began_seconds_ = logged_seconds_ = state.seconds;
  began_step_ = logged_step_ = state.step;
  task_.module().train();
  if (evaluation_due(state)) {  // a signal had come before it
    evaluate_and_log(state);
    save(state);
  }
  bool saved = true;
  while (!over(state)) {
    const double begin = now();
    const StepResult result = train_step(state.step);
    state.seconds += now() - begin;
    if (!result.good) {
      note_bad_step(state, result.loss);
    } else {
      state.skips = 0;
      state.loss_sum += result.loss;
      ++state.loss_count;
    }
    ++state.step;
    refuse_mostly_skipped(state);
    if (due(state.step, options_.log_every) || over(state)) log_step(state, result.rate);
    show(state, result);
    stop_if_asked(state);  // before an evaluation, for whoever sends a signal may wait for seconds only
    if (evaluation_due(state)) {
      evaluate_and_log(state);
      stop_if_asked(state);
    }
    saved = due(state.step, options_.checkpoint_every);
    if (saved) save(state);
  }
  if (!saved) save(state);
  return state;
}

void Trainer::stop_if_asked(TrainerState& state) {
  const int signal = StopSignal::received();
  if (signal == 0) return;
  save(state);
  progress_.finish();
  throw Interrupted(
      signal, fmt::format("stopped after step {} and saved in {}; --resume goes on", state.step, run_.path().string()));
}

Trainer::StepResult Trainer::train_step(int64_t step) {
  task_.before_step(step, optimizers_);
  StepResult result;
  for (int64_t micro = 0; micro < options_.accumulation; ++micro) {
    at::Tensor loss;
    {
      const PrecisionGuard precision(bfloat16_);
      loss = task_.loss(step, micro);
    }
    const double value = loss.item<double>();
    result.loss += value / static_cast<double>(options_.accumulation);
    if (!std::isfinite(value)) {
      optimizers_.zero_gradients();
      return result;
    }
    if (loss.requires_grad()) loss.backward();
  }
  const StepReport report = task_.update(step, steps_, optimizers_, static_cast<double>(options_.accumulation));
  result.rate = report.rate;
  result.good = !report.skipped;
  return result;
}

std::string Trainer::last_checkpoint() const {
  const auto latest = run_.latest();
  return latest ? fmt::format("the last checkpoint is {}", latest->string()) : "no checkpoint yet";
}

void Trainer::fail_not_finite(const TrainerState& state, double loss, const std::string& after) const {
  const std::string got = std::isfinite(loss) ? "a gradient that is not finite" : fmt::format("{}", loss);
  fail(ExitCode::numbers, fmt::format("train {}", label_), "the loss must be finite",
       fmt::format("{} at step {}{} ({})", got, state.step, after, last_checkpoint()));
}

void Trainer::note_bad_step(TrainerState& state, double loss) {
  ++state.skips;
  ++state.all_skips;
  if (options_.nan_policy == NanPolicy::stop) {
    progress_.finish();
    fail_not_finite(state, loss, "");
  }
  progress_.finish(fmt::format("{}: step {} skipped: {}", label_, state.step,
                               std::isfinite(loss) ? "a gradient is not finite" : "the loss is not finite"));
  if (state.skips <= options_.most_skips) return;
  fail_not_finite(state, loss, fmt::format(" after {} skipped steps in a row", state.skips - 1));
}

// A run that skips more than half of its steps did not train, whatever most_skips allows in a row. In a long run that
// is told before the end.
void Trainer::refuse_mostly_skipped(const TrainerState& state) const {
  constexpr int64_t few_steps = 100;
  if (2 * state.all_skips <= state.step || (state.step < few_steps && !over(state))) return;
  progress_.finish();
  fail(ExitCode::numbers, fmt::format("train {}", label_), "at least half of the steps must have finite numbers",
       fmt::format("{} of {} skipped ({})", state.all_skips, state.step, last_checkpoint()));
}

void Trainer::log_step(TrainerState& state, double rate) {
  measures_ = task_.training_measures();
  const double seconds = state.seconds - logged_seconds_;
  const int64_t tokens = (state.step - logged_step_) * tokens_per_step_;
  nlohmann::json line = {{"kind", "train"},
                         {"step", state.step},
                         {"tokens", state.step * tokens_per_step_},
                         {"seconds", state.seconds},
                         {"loss", nullptr},
                         {"learning_rate", rate},
                         {"tokens_per_second", seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0},
                         {"memory_bytes", resident_bytes()},
                         {"usage", nullptr},
                         {"kl", nullptr}};
  if (state.loss_count > 0) line["loss"] = state.loss_sum / static_cast<double>(state.loss_count);
  line.update(measures_);
  if (!due(state.step, options_.log_every)) line["usage"] = line["kl"] = nullptr;  // a shorter window reads fewer rows
  log_.write(line);
  state.loss_sum = 0;
  state.loss_count = 0;
  logged_seconds_ = state.seconds;
  logged_step_ = state.step;
}

void Trainer::evaluate_and_log(TrainerState& state) {
  progress_.show(fmt::format("{} step {}/{}  evaluating", label_, state.step, steps_));
  try {
    state.evaluation = evaluate(task_, bfloat16_);
  } catch (const Interrupted&) {
    stop_if_asked(state);
    throw;
  }
  state.evaluated_step = state.step;
  nlohmann::json line = state.evaluation;  // its "tokens" were evaluated, those of the log were trained on
  if (line.contains("tokens")) line["evaluation_tokens"] = line["tokens"];
  line.update({{"kind", "evaluation"},
               {"step", state.step},
               {"tokens", state.step * tokens_per_step_},
               {"seconds", state.seconds}});
  log_.write(line);
  const double loss = number_of(state.evaluation.at("loss"));
  if (std::isfinite(loss) || (options_.nan_policy == NanPolicy::skip && !over(state))) return;
  progress_.finish();
  fail_not_finite(state, loss, "");
}

void Trainer::save(TrainerState& state) {
  save_checkpoint(run_, task_, optimizers_, state, facts_, options_.keep_last);
}

void Trainer::show(const TrainerState& state, const StepResult& result) {
  const double seconds = state.seconds - began_seconds_;
  const auto done = static_cast<double>(state.step - began_step_);
  const double rate = seconds > 0 ? done * static_cast<double>(tokens_per_step_) / seconds : 0;
  const double left = done > 0 ? seconds / done * static_cast<double>(steps_ - state.step) : 0;
  std::string progress = task_.progress();
  if (progress.empty()) progress = fmt::format("loss {:.3f}  lr {:.1e}", result.loss, result.rate);
  std::string line =
      fmt::format("{} step {}/{}  {}  {} tokens/s  {} left  {}", label_, state.step, steps_, progress,
                  format_count(rate), format_seconds(left), format_bytes(static_cast<double>(resident_bytes())));
  if (measures_.contains("usage")) {
    line += fmt::format("  usage {:.0f} %  KL {:.2f}", 100 * number_of(measures_["usage"]), number_of(measures_["kl"]));
  }
  progress_.show(line);
}

}  // namespace loci
