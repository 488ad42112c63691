// Legend: S seeds, B samples of each, M values and cells.
#include "loci/tasks/ram_task.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "loci/base/check.h"
#include "loci/base/stop_signal.h"
#include "loci/base/wilson.h"
#include "loci/program/export_text.h"
#include "loci/program/program_file.h"
#include "loci/program/prune.h"
#include "loci/tasks/discretise.h"

namespace loci {

std::unique_ptr<Task> RamPlan::make(const TaskInputs& inputs) const {
  return std::make_unique<RamLearning>(*this, inputs);
}

std::unique_ptr<TaskPlan> ram_plan() {
  return std::make_unique<RamPlan>();
}

namespace {

std::vector<uint64_t> seed_list(const RamPlan& plan, uint64_t first) {
  std::vector<uint64_t> seeds(static_cast<size_t>(plan.search.seeds));
  std::iota(seeds.begin(), seeds.end(), first);
  return seeds;
}

}  // namespace

RamLearning::RamLearning(const RamPlan& plan, const TaskInputs& inputs)
    : plan_(plan),
      task_(plan.ram_task()),
      M_(plan.tape_size()),
      batch_(inputs.batch.batch),
      progress_(inputs.progress),
      machine_(std::make_shared<NeuralRam>(plan.model, seed_list(plan, inputs.seed))),
      seeds_(machine_->seeds(), machine_->parameters_of_seeds(), plan.update, plan.anneal) {
  if (inputs.batch.accumulation != 1) {
    fail(ExitCode::usage, "config", "train.accumulation of a ram task must be 1",
         fmt::to_string(inputs.batch.accumulation));
  }
  for (RamSeedState& state : seeds_.states()) state.curriculum = Curriculum(curriculum()).state();
}

CurriculumOptions RamLearning::curriculum() const {
  return {.minimum = task_.minimum_difficulty,
          .maximum = plan_.data.difficulty,
          .threshold = plan_.data.raise_error,
          .gap = plan_.data.gap};
}

// Instances and difficulty of a seed's step are drawn from its own streams at a position given by the step alone.
RamUnrollInput RamLearning::draw(int64_t step) {
  const auto S = std::ssize(active_);
  RamBatch batch(S, batch_, M_);
  RamUnrollInput input{batch.tape, batch.target, batch.cell_weight, at::empty({S}, at::kLong),
                       at::empty({S}, at::kFloat)};
  difficulty_.assign(static_cast<size_t>(S), 0);
  answer_cells_.assign(static_cast<size_t>(S * batch_), 0);
  at::parallel_for(0, S, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t seed = active_[static_cast<size_t>(row)];
      const uint64_t name = machine_->seeds()[static_cast<size_t>(seed)];
      const auto position = static_cast<uint64_t>(step);
      RandomSequence levels(CounterRandom(name, "ram.level"), 3 * position);
      RandomSequence random(CounterRandom(name, "ram.instances"), position << 32);
      const int64_t d = Curriculum(curriculum(), seeds_.states()[static_cast<size_t>(seed)].curriculum).draw(levels);
      difficulty_[static_cast<size_t>(row)] = d;
      for (int64_t i = 0; i < batch_; ++i) {
        const RamInstance instance = sample(task_, d, static_cast<uint32_t>(M_), random);
        answer_cells_[static_cast<size_t>(row * batch_ + i)] = std::ssize(instance.answer.cells);
        batch.set(row, i, instance);
      }
      input.steps.mutable_data_ptr<int64_t>()[row] = task_.training_steps(d);
      input.bonus.mutable_data_ptr<float>()[row] = static_cast<float>(seeds_.entropy_bonus(seed, step));
    }
  });
  return input;
}

at::Tensor RamLearning::loss(int64_t step, int64_t) {
  active_ = seeds_.active();
  const auto S = std::ssize(active_);
  if (S == 0) return at::scalar_tensor(0.0);
  output_ = machine_->run(draw(step), true, S == plan_.search.seeds ? std::vector<int64_t>{} : active_);
  error_.assign(static_cast<size_t>(S), 0);
  double mean_loss = 0;
  int64_t finite = 0;
  for (int64_t row = 0; row < S; ++row) {
    for (int64_t i = 0; i < batch_; ++i) {
      error_[static_cast<size_t>(row)] +=
          task_.curriculum_error(output_.wrong.const_data_ptr<int32_t>()[row * batch_ + i],
                                 answer_cells_[static_cast<size_t>(row * batch_ + i)]) /
          static_cast<double>(batch_);
    }
    const double value = output_.objective.const_data_ptr<float>()[row];
    if (!std::isfinite(value)) continue;
    mean_loss += value;
    ++finite;
  }
  if (finite > 0) mean_loss /= static_cast<double>(finite);
  return at::scalar_tensor(mean_loss, at::kDouble);
}

StepReport RamLearning::update(int64_t step, int64_t, OptimizerSet&, double) {
  if (!active_.empty()) seeds_.update(step, active_, output_.gradient, output_.sound);
  for (int64_t row = 0; row < std::ssize(active_); ++row) follow(active_[static_cast<size_t>(row)], row, step);
  StepReport report;
  report.rate = plan_.update.learning_rate;
  return report;
}

// What an update's error means for the seed's level, anneal and end.
void RamLearning::follow(int64_t seed, int64_t row, int64_t step) {
  RamSeedState& state = seeds_.states()[static_cast<size_t>(seed)];
  if (!state.active()) return;
  Curriculum levels(curriculum(), state.curriculum);
  levels.observe(difficulty_[static_cast<size_t>(row)], error_[static_cast<size_t>(row)]);
  state.curriculum = levels.state();
  const bool last = state.curriculum.level == plan_.data.difficulty;
  if (state.phase == RamPhase::learning) {
    if (last && state.curriculum.error < plan_.anneal.begin_error) {
      seeds_.begin_anneal(seed, step);
    } else if (step + 1 >= plan_.search.learn_updates ||
               (step + 1 == plan_.search.early_updates && state.curriculum.level < plan_.search.early_level)) {
      state.phase = RamPhase::unsolved;
    }
    return;
  }
  ++state.anneal_updates;
  state.lost_updates = state.curriculum.error > plan_.anneal.lost_error ? state.lost_updates + 1 : 0;
  if (state.lost_updates >= plan_.anneal.patience) {
    seeds_.restart_anneal(seed);
  } else if (state.anneal_updates % plan_.anneal.check_every == 0) {
    check_anneal(seed);
  }
  if (state.anneal_updates >= plan_.anneal.updates) seeds_.finish(seed);
}

void RamLearning::check_anneal(int64_t seed) {
  RamSeedState& state = seeds_.states()[static_cast<size_t>(seed)];
  const int64_t D = plan_.data.difficulty;
  RamError sum;
  for (const RamError& error : discrete_errors(*machine_, seed, task_, {(D + 1) / 2, D, 2 * D},
                                               {.instances = 100, .slacks = {2, 10}, .seed = 11})) {
    sum.cells += error.cells;
    sum.wrong_cells += error.wrong_cells;
  }
  seeds_.offer(seed, sum.cell_error());
  if (state.anneal_updates >= plan_.anneal.ramp && sum.wrong_cells == 0) seeds_.finish(seed);
}

bool RamLearning::finished() const {
  if (seeds_.active().empty()) return true;
  int64_t exact = 0;
  for (const RamSeedState& state : seeds_.states()) exact += state.phase == RamPhase::finished && state.best_error == 0;
  return plan_.search.enough > 0 && exact >= plan_.search.enough;
}

std::string RamLearning::progress() const {
  double level = 0, error = 0;
  for (const RamSeedState& state : seeds_.states()) {
    level += static_cast<double>(state.curriculum.level) / static_cast<double>(plan_.search.seeds);
    error += state.curriculum.error / static_cast<double>(plan_.search.seeds);
  }
  return fmt::format("{} learning, {} annealing, {} finished of {} seeds  level {:.1f}/{}  error {:.3f}",
                     seeds_.count(RamPhase::learning), seeds_.count(RamPhase::annealing),
                     seeds_.count(RamPhase::finished), plan_.search.seeds, level, plan_.data.difficulty, error);
}

nlohmann::json RamLearning::training_measures(bool) {
  nlohmann::json seeds = nlohmann::json::array();
  for (size_t s = 0; s < seeds_.states().size(); ++s) {
    const RamSeedState& state = seeds_.states()[s];
    seeds.push_back({{"seed", machine_->seeds()[s]},
                     {"level", state.curriculum.level},
                     {"error", state.curriculum.error},
                     {"phase", name_of(state.phase)}});
  }
  return {{"seeds", seeds}};
}

namespace {

nlohmann::json rate_json(int64_t hits, int64_t trials) {
  const Interval interval = wilson_interval(hits, trials);
  return {{"seeds", hits}, {"of", trials}, {"interval", {interval.low, interval.high}}};
}

double largest_error(const std::vector<RamError>& errors) {
  double largest = 0;
  for (const RamError& error : errors) largest = std::max(largest, error.cell_error());
  return largest;
}

}  // namespace

std::vector<Measure> RamLearning::measures() const {
  const std::string of = fmt::format("of {}", plan_.search.seeds);
  return {{"exact", 0, false, of, "machines whose discrete program makes no error at any length up to 50"},
          {"solved", 0, false, of, fmt::format("machines without an error at length {}", plan_.data.difficulty)},
          {"generalises", 0, false, of, "solved machines without an error at lengths up to 50"},
          {"error", 4, true, "", "share of wrong cells at the last length, mean over the machines"}};
}

// Solved: no soft error on 1000 instances of the last level. Generalises: none at lengths up to 50 either. Exact:
// solved, and the discrete machine makes none at any length.
RamLearning::SeedMeasures RamLearning::measure(int64_t seed) {
  const RamSeedState& state = seeds_.states()[static_cast<size_t>(seed)];
  const int64_t D = plan_.data.difficulty;
  const auto between = [] { StopSignal::check("stopped while machines were evaluated"); };
  SeedMeasures measures;
  const auto soft = soft_errors(*machine_, seed, task_, {D},
                                {.instances = 1000, .slacks = {plan_.data.slack}, .seed = 7, .between = between});
  const auto discrete =
      discrete_errors(*machine_, seed, task_, {D, 2 * D, 20, 35, 50}, {.instances = 1000, .between = between});
  measures.soft_error = soft[0].cell_error();
  measures.solved = soft[0].wrong_cells == 0;
  measures.exact = measures.solved && largest_error(discrete) == 0;
  measures.rank = measures.soft_error + largest_error(discrete);
  measures.entry = {{"seed", machine_->seeds()[static_cast<size_t>(seed)]},
                    {"phase", name_of(state.phase)},
                    {"level", state.curriculum.level},
                    {"updates", seeds_.updates(seed)},
                    {"learned_at", state.learned_at},
                    {"soft", to_json(soft)},
                    {"discrete", to_json(discrete)},
                    {"solved", measures.solved},
                    {"exact", measures.exact}};
  if (!measures.solved) return measures;
  const auto further =
      soft_errors(*machine_, seed, task_, {std::min<int64_t>(2 * D, 50), 50}, {.instances = 256, .between = between});
  for (const auto& row : to_json(further)) measures.entry["soft"].push_back(row);
  measures.generalises = largest_error(further) == 0;
  measures.rank += largest_error(further);
  return measures;
}

Evaluation RamLearning::evaluate() {
  const int64_t S = plan_.search.seeds;
  int64_t solved = 0, generalises = 0, exact = 0, best = 0;
  nlohmann::json seeds = nlohmann::json::array();
  double mean_error = 0;
  double least_rank = std::numeric_limits<double>::infinity();
  for (int64_t s = 0; s < S; ++s) {
    if (progress_ != nullptr) progress_->show(fmt::format("evaluating machine {} of {}", s + 1, S));
    SeedMeasures measures = measure(s);
    solved += measures.solved;
    generalises += measures.generalises;
    exact += measures.exact;
    mean_error += measures.soft_error / static_cast<double>(S);
    if (measures.rank < least_rank) {
      least_rank = measures.rank;
      best = s;
    }
    seeds.push_back(std::move(measures.entry));
  }
  return {{static_cast<double>(exact), static_cast<double>(solved), static_cast<double>(generalises), mean_error},
          {{"seeds", seeds},
           {"solved", rate_json(solved, S)},
           {"generalises", rate_json(generalises, S)},
           {"exact", rate_json(exact, S)},
           {"best", best}}};
}

// Every seed at every length, as it was trained and discretised.
Account RamLearning::account(const Evaluation&, const AccountOptions& options) {
  refuse_text_options(options);
  refuse_places(options);
  refuse_poses(options);
  refuse_pictures(options);
  const std::vector<int64_t> lengths = options.lengths.empty() ? std::vector<int64_t>{5, 10, 20, 50} : options.lengths;
  for (const int64_t length : lengths) {
    if (length >= task_.minimum_difficulty && length <= kMaximumDifficulty) continue;
    fail(ExitCode::usage, "--lengths",
         fmt::format("lengths of {} must be from {} to {}", task_.name, task_.minimum_difficulty, kMaximumDifficulty),
         fmt::to_string(length));
  }
  Account account;
  account.json["seeds"] = nlohmann::json::array();
  account.text = "seed  length  soft cell error  soft instance error  discrete cell error  discrete instance error\n";
  const auto share = [](const RamError& e) {
    return static_cast<double>(e.wrong_instances) / static_cast<double>(e.instances);
  };
  for (int64_t s = 0; s < plan_.search.seeds; ++s) {
    const uint64_t name = machine_->seeds()[static_cast<size_t>(s)];
    options.progress->show(fmt::format("evaluating seed {} of {}", s + 1, plan_.search.seeds));
    const auto soft = soft_errors(*machine_, s, task_, lengths, {});
    const auto discrete = discrete_errors(*machine_, s, task_, lengths, {.instances = 1000});
    account.json["seeds"].push_back({{"seed", name}, {"soft", to_json(soft)}, {"discrete", to_json(discrete)}});
    for (size_t i = 0; i < soft.size(); ++i) {
      account.text += fmt::format("{:4}  {:6}  {:15.4f}  {:19.4f}  {:19.4f}  {:23.4f}\n", name, soft[i].length,
                                  soft[i].cell_error(), share(soft[i]), discrete[i].cell_error(), share(discrete[i]));
    }
  }
  return account;
}

int64_t RamLearning::infer(int64_t position) {
  const int64_t D = plan_.data.difficulty;
  soft_errors(*machine_, position % plan_.search.seeds, task_, {D},
              {.instances = 64, .slacks = {plan_.data.slack}, .seed = static_cast<uint64_t>(position)});
  return 64;
}

std::vector<std::pair<std::string, at::Tensor>> RamLearning::extra_state() {
  seeds_.pack();
  return seeds_.tensors();
}

// The finished seed with the least error as a program, for readers without this library.
std::vector<std::pair<std::string, std::string>> RamLearning::files() {
  int64_t best = -1;
  for (size_t s = 0; s < seeds_.states().size(); ++s) {
    const RamSeedState& state = seeds_.states()[s];
    if (state.phase != RamPhase::finished) continue;
    if (best < 0 || state.best_error < seeds_.states()[static_cast<size_t>(best)].best_error) {
      best = static_cast<int64_t>(s);
    }
  }
  if (best < 0 || plan_.model.controller == "lstm") return {};
  const RamProgram program = discretise(*machine_, best);
  InstanceOptions instances;
  instances.instances = 1000;
  const RamProgram pruned = prune(program, count_patterns(program, task_, instances));
  return {{"program.json", to_json(pruned)}, {"program.txt", to_text(pruned)}};
}

std::string RamLearning::data_key() const {
  return plan_.data_key();
}

namespace {

std::string shown_json(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The seed that the last evaluation found best; 0 where there was none.
int64_t best_of(const CheckpointReader& checkpoint, int64_t seeds) {
  const nlohmann::json& manifest = checkpoint.manifest();
  const auto found = nlohmann::json::json_pointer("/trainer/evaluation/details/best");
  if (!manifest.contains(found)) return 0;
  const nlohmann::json& best = manifest.at(found);
  if (!best.is_number_integer() || best.get<double>() < 0 || best.get<double>() >= static_cast<double>(seeds)) {
    fail(ExitCode::input, checkpoint.path().string(),
         fmt::format("trainer.evaluation.details.best must be an integer from 0 to {}", seeds - 1), shown_json(best));
  }
  return best.get<int64_t>();
}

}  // namespace

LoadedRam load_ram(const RunConfig& config, const CheckpointReader& checkpoint) {
  const auto* plan = dynamic_cast<const RamPlan*>(config.plan.get());
  if (plan == nullptr) fail(ExitCode::usage, "program", "RUN must be of the task ram", config.task);
  require_data(checkpoint, plan->data_key());
  LoadedRam loaded;
  loaded.task = plan->ram_task();
  loaded.machine = std::make_shared<NeuralRam>(plan->model, seed_list(*plan, static_cast<uint64_t>(config.seed)));
  load_model(checkpoint, *loaded.machine, {});
  loaded.best = best_of(checkpoint, std::ssize(loaded.machine->seeds()));
  return loaded;
}

}  // namespace loci
