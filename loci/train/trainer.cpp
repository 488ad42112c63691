#include "loci/train/trainer.h"

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <signal.h>

#include <cmath>
#include <limits>
#include <utility>

#include "loci/base/stop_signal.h"
#include "loci/nn/evaluation_scope.h"
#include "loci/train/precision.h"

namespace loci {
namespace {

// The first step makes caches and generated code. After these, a pace says something.
constexpr int64_t kPaceSteps = 5;
constexpr double kPaceSeconds = 2;

bool due(int64_t step, int64_t every) {
  return every > 0 && step % every == 0;
}

}  // namespace

Evaluation evaluate(Task& task, bool bfloat16) {
  const EvaluationScope evaluation(task.module());
  const c10::InferenceMode no_gradient;
  const PrecisionGuard precision(bfloat16);
  return task.evaluate();
}

Account account_of(Task& task, const Evaluation& evaluation, const AccountOptions& options, bool bfloat16) {
  const EvaluationScope scope(task.module());
  const c10::InferenceMode no_gradient;
  const PrecisionGuard precision(bfloat16);
  return task.account(evaluation, options);
}

Trainer::Trainer(Task& task, OptimizerSet& optimizers, TrainOptions options, RunDirectory& run, MetricsLog& log,
                 nlohmann::json facts, ProgressLine& progress, std::string label, Ranks ranks)
    : task_(task),
      optimizers_(optimizers),
      options_(std::move(options)),
      run_(run),
      log_(log),
      facts_(std::move(facts)),
      progress_(progress),
      label_(std::move(label)),
      ranks_(std::move(ranks)),
      units_per_step_(task.units_per_micro_batch() * options_.accumulation),
      steps_(options_.steps_for(units_per_step_)),
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
    const double begin = monotonic_seconds();
    const StepResult result =
        train_step(task_, optimizers_, state.step, steps_, options_.accumulation, bfloat16_, ranks_);
    const std::vector<TaskEvent> events = task_.after_step(
        {state.step + 1, steps_, result.good ? result.loss : std::numeric_limits<double>::quiet_NaN()}, optimizers_);
    state.seconds += monotonic_seconds() - begin;
    if (!result.good) {
      note_bad_step(state, result.loss);
    } else {
      state.skips = 0;
      state.loss_sum += result.loss;
      ++state.loss_count;
    }
    ++state.step;
    refuse_mostly_skipped(state);
    tell(state, events);
    if (due(state.step, options_.log_every) || over(state)) log_step(state, result.rate);
    show(state, result);
    // Before an evaluation, for whoever sends a signal may wait for seconds only. One that came to a rank after its
    // gradients were sent is seen by all with the next step.
    stop_if_asked(state, ranks_.size > 1 ? result.signal : StopSignal::received());
    if (evaluation_due(state)) {
      evaluate_and_log(state);
      stop_if_asked(state, signal());
    }
    saved = due(state.step, options_.checkpoint_every);
    if (saved) save(state);
  }
  if (!saved) save(state);
  if (const int received = signal(); received != 0) stop(state, received);
  return state;
}

int Trainer::signal() const {
  const int here = StopSignal::received();
  if (ranks_.size == 1) return here;
  const at::Tensor counts = at::zeros({2}, at::kInt);
  if (here != 0) counts[here == SIGTERM ? 1 : 0].fill_(1);
  sum_over(ranks_)({counts});
  const auto* const count = counts.const_data_ptr<int>();
  return count[1] > 0 ? SIGTERM : count[0] > 0 ? SIGINT : 0;
}

void Trainer::stop_if_asked(TrainerState& state, int signal) {
  if (signal == 0) return;
  save(state);
  stop(state, signal);
}

void Trainer::stop(const TrainerState& state, int signal) {
  progress_.finish();
  throw Interrupted(
      signal, fmt::format("stopped after step {} and saved in {}; --resume goes on", state.step, run_.path().string()));
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

void Trainer::tell(const TrainerState& state, const std::vector<TaskEvent>& events) {
  for (const TaskEvent& event : events) {
    nlohmann::json line = event.line;
    line["step"] = state.step;
    log_.write(line);
    if (!event.notice.empty()) progress_.finish(fmt::format("{}: step {}: {}", label_, state.step, event.notice));
  }
}

void Trainer::log_step(TrainerState& state, double rate) {
  const double begin = monotonic_seconds();
  measures_ = task_.training_measures(due(state.step, options_.log_every));
  state.seconds += monotonic_seconds() - begin;  // part of what a memory costs
  const double seconds = state.seconds - logged_seconds_;
  const int64_t units = (state.step - logged_step_) * units_per_step_;
  nlohmann::json line = {{"kind", "train"},
                         {"step", state.step},
                         {"units", state.step * units_per_step_},
                         {"seconds", state.seconds},
                         {"loss", nullptr},
                         {"learning_rate", rate},
                         {"units_per_second", seconds > 0 ? static_cast<double>(units) / seconds : 0.0},
                         {"memory_bytes", resident_bytes()}};
  if (state.loss_count > 0) line["loss"] = state.loss_sum / static_cast<double>(state.loss_count);
  line.update(measures_);
  log_.write(line);
  state.loss_sum = 0;
  state.loss_count = 0;
  logged_seconds_ = state.seconds;
  logged_step_ = state.step;
}

void Trainer::evaluate_and_log(TrainerState& state) {
  progress_.show(fmt::format("{} step {}/{}  evaluating", label_, state.step, steps_));
  Evaluation evaluation;
  try {
    evaluation = evaluate(task_, bfloat16_);
  } catch (const Interrupted&) {
    stop_if_asked(state, signal());
    throw;
  }
  state.evaluated_step = state.step;
  state.evaluation = evaluation_json(task_.measures(), evaluation);
  nlohmann::json line = state.evaluation;
  line.update({{"kind", "evaluation"},
               {"step", state.step},
               {"units", state.step * units_per_step_},
               {"seconds", state.seconds}});
  log_.write(line);
  const double first = evaluation.values.front();
  if (std::isfinite(first) || (options_.nan_policy == NanPolicy::skip && !over(state))) return;
  progress_.finish();
  fail_not_finite(state, first, "");
}

void Trainer::save(TrainerState& state) {
  log_.sync();
  save_checkpoint(run_, task_, optimizers_, state, facts_, options_.keep_last, ranks_);
}

void Trainer::show(const TrainerState& state, const StepResult& result) {
  const double seconds = state.seconds - began_seconds_;
  const auto done = static_cast<double>(state.step - began_step_);
  const double rate = seconds > 0 ? done * static_cast<double>(units_per_step_) / seconds : 0;
  const double left = done > 0 ? seconds / done * static_cast<double>(steps_ - state.step) : 0;
  if (on_pace_ && state.step - began_step_ >= kPaceSteps && seconds >= kPaceSeconds) {
    std::exchange(on_pace_, nullptr)(seconds / done);
  }
  std::string progress = task_.progress();
  if (progress.empty()) progress = fmt::format("loss {:.3f}  lr {:.1e}", result.loss, result.rate);
  std::string line =
      fmt::format("{} step {}/{}  {}  {} {}/s  {} left  {}", label_, state.step, steps_, progress, format_count(rate),
                  task_.unit(), format_seconds(left), format_bytes(static_cast<double>(resident_bytes())));
  for (const Measure& measure : task_.measures()) {
    if (measure.name == "loss" || !measures_.contains(measure.name)) continue;  // the loss is shown already
    line += fmt::format("  {} {}", title_of(measure), shown(measure, number_of(measures_[measure.name])));
  }
  progress_.show(line);
}

}  // namespace loci
