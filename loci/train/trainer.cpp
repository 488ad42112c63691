#include "loci/train/trainer.h"

#include <c10/core/InferenceMode.h>

#include <cmath>
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
      units_per_step_(task.units_per_micro_batch() * options_.accumulation),
      steps_(options_.steps_for(units_per_step_)),
      bfloat16_(wants_bfloat16(options_.precision)) {}

TrainerState Trainer::run(TrainerState state) {
  const StopSignal signals("stopping after this step and saving");
  began_seconds_ = logged_seconds_ = state.seconds;
  began_step_ = logged_step_ = state.step;
  task_.module().train();
  const auto over = [&] { return state.step == steps_ || task_.finished(); };
  bool saved = over() && !state.evaluation.is_null();
  while (!over()) {
    const double begin = monotonic_seconds();
    const StepResult result = train_step(state.step);
    state.seconds += monotonic_seconds() - begin;
    if (!result.good) {
      note_bad_step(state, result.loss);
    } else {
      state.skips = 0;
      state.loss_sum += result.loss;
      ++state.loss_count;
    }
    ++state.step;
    const bool last = over();
    if (due(state.step, options_.log_every) || last) log_step(state, result.rate);
    show(state, result);
    if (due(state.step, options_.evaluate_every) || last) evaluate_and_log(state);
    const int stop = StopSignal::received();
    saved = due(state.step, options_.checkpoint_every) || last || stop != 0;
    if (saved) save(state);
    if (stop != 0) {
      progress_.finish();
      throw Interrupted(stop, fmt::format("stopped after step {} and saved in {}; --resume goes on", state.step,
                                          run_.path().string()));
    }
  }
  if (!saved) {
    evaluate_and_log(state);
    save(state);
  }
  return state;
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

void Trainer::note_bad_step(TrainerState& state, double loss) {
  ++state.skips;
  const bool stop = options_.nan_policy == NanPolicy::stop;
  progress_.finish(stop ? ""
                        : fmt::format("{}: step {} skipped: {}", label_, state.step,
                                      std::isfinite(loss) ? "a gradient is not finite" : "the loss is not finite"));
  if (!stop && state.skips <= options_.most_skips) return;
  const auto latest = run_.latest();
  const std::string where = latest ? fmt::format("the last checkpoint is {}", latest->string()) : "no checkpoint yet";
  const std::string got = std::isfinite(loss) ? "a gradient that is not finite" : fmt::format("{}", loss);
  fail(ExitCode::numbers, fmt::format("train {}", label_), "the loss must be finite",
       fmt::format("{} at step {}{} ({})", got, state.step,
                   stop ? "" : fmt::format(" after {} skipped steps in a row", state.skips - 1), where));
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
  const Evaluation evaluation = evaluate(task_, bfloat16_);
  state.evaluation = evaluation_json(task_.measures(), evaluation);
  nlohmann::json line = state.evaluation;
  line.update({{"kind", "evaluation"},
               {"step", state.step},
               {"units", state.step * units_per_step_},
               {"seconds", state.seconds}});
  log_.write(line);
  const double first = evaluation.values.front();
  if (options_.nan_policy == NanPolicy::stop && !std::isfinite(first)) note_bad_step(state, first);
}

void Trainer::save(TrainerState& state) {
  log_.sync();
  save_checkpoint(run_, task_, optimizers_, state, facts_, options_.keep_last);
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
