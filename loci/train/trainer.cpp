#include "loci/train/trainer.h"

#include <c10/core/InferenceMode.h>

#include <cmath>
#include <limits>
#include <utility>

#include "loci/base/stop_signal.h"
#include "loci/train/precision.h"

namespace loci {
namespace {

bool due(int64_t step, int64_t every) {
  return every > 0 && step % every == 0;
}

}  // namespace

double number_of(const nlohmann::json& value) {
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

nlohmann::json evaluate(Task& task, bool bfloat16) {
  const bool training = task.module().is_training();
  task.module().eval();
  nlohmann::json measures;
  {
    const c10::InferenceMode no_gradient;
    const PrecisionGuard precision(bfloat16);
    measures = task.evaluate();
  }
  task.module().train(training);
  return measures;
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
  state.evaluation = evaluate(task_, bfloat16_);
  nlohmann::json line = state.evaluation;  // its "tokens" were evaluated, those of the log were trained on
  if (line.contains("tokens")) line["evaluation_tokens"] = line["tokens"];
  line.update({{"kind", "evaluation"},
               {"step", state.step},
               {"tokens", state.step * tokens_per_step_},
               {"seconds", state.seconds}});
  log_.write(line);
  const double loss = number_of(state.evaluation.at("loss"));
  if (options_.nan_policy == NanPolicy::stop && !std::isfinite(loss)) note_bad_step(state, loss);
}

void Trainer::save(TrainerState& state) {
  log_.sync();
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
