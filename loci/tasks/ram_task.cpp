// Legend: S seeds, B samples of each, M values and cells.
#include "loci/tasks/ram_task.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "loci/base/wilson.h"
#include "loci/program/export_text.h"
#include "loci/program/program_file.h"
#include "loci/program/prune.h"
#include "loci/tasks/discretise.h"

namespace loci {

void RamDataOptions::fields(ConfigFields& f) {
  f.choice("task", task, ram_task_names());
  f.field("difficulty", difficulty, {.minimum = 1, .maximum = 1000});
  f.field("slack", slack, {.minimum = 0, .maximum = 1000});
  f.field("index_base", index_base, {.minimum = 0, .maximum = 1});
  f.field("out_pointer", out_pointer);
  f.field("raise_error", raise_error, {.minimum = 1e-9, .maximum = 1});
  f.field("gap", gap, {.minimum = 0});
}

void RamSearchOptions::fields(ConfigFields& f) {
  f.field("seeds", seeds, {.minimum = 1, .maximum = 4096});
  f.field("enough", enough, {.minimum = 0, .maximum = 4096});
  f.field("learn_updates", learn_updates, {.minimum = 1});
  f.field("early_updates", early_updates, {.minimum = 0});
  f.field("early_level", early_level, {.minimum = 1, .maximum = 1000});
}

void RamPlan::fields(ConfigFields& f) {
  f.section("data", data);
  f.section("model", model);
  f.section("update", update);
  f.section("anneal", anneal);
  f.section("search", search);
}

RamTask RamPlan::ram_task() const {
  return loci::ram_task(data.task, {.index_base = data.index_base, .out_pointer = data.out_pointer});
}

uint32_t RamPlan::tape_size() const {
  return ram_task().minimum_tape(data.difficulty) + static_cast<uint32_t>(data.slack);
}

std::string RamPlan::data_key() const {
  return fmt::format("{} {} {} {}", data.task, data.index_base, data.out_pointer, tape_size());
}

void RamPlan::check() const {
  const RamTask task = ram_task();
  if (data.difficulty < task.minimum_difficulty) {
    fail(ExitCode::usage, "config",
         fmt::format("data.difficulty of {} must be at least {}", task.name, task.minimum_difficulty),
         fmt::to_string(data.difficulty));
  }
  if (search.enough > search.seeds) {
    fail(ExitCode::usage, "config", fmt::format("search.enough must be at most search.seeds = {}", search.seeds),
         fmt::to_string(search.enough));
  }
  if (search.early_updates > 0 && search.early_level > data.difficulty) {
    fail(ExitCode::usage, "config",
         fmt::format("search.early_level must be at most data.difficulty = {}", data.difficulty),
         fmt::to_string(search.early_level));
  }
}

RunSize RamPlan::size(const BatchShape& batch, const RowOptimizerOptions&, bool) const {
  const int64_t P = neural_ram_parameters(model), S = search.seeds, M = tape_size();
  const RamTask task = ram_task();
  const int64_t T = task.training_steps(data.difficulty), O = (P / model.width) + model.width;
  const int64_t blocks = S * ((batch.batch + 15) / 16);
  const int64_t lanes = T * (M * M + model.registers * M + 3 * O + 8 * model.width);
  return {.parameters_dense = S * P,
          .parameters_table = 0,
          .units_per_step = S * batch.batch,
          .memory = {{"dense parameters", 4 * S * P},
                     {"optimiser state", 4 * 6 * S * P},
                     {"gradients", 4 * (blocks + S) * P},
                     {"activations", 4 * 16 * lanes * at::get_num_threads()}}};
}

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

// Instances and difficulty of a seed's step are drawn from its own streams at a place given by the step alone.
at::Tensor RamLearning::loss(int64_t step, int64_t) {
  active_ = seeds_.active();
  const auto S = std::ssize(active_);
  if (S == 0) return at::scalar_tensor(0.0);
  RamBatch batch(S, batch_, M_);
  RamUnrollInput input{batch.tape, batch.target, batch.cell_weight, at::empty({S}, at::kLong),
                       at::empty({S}, at::kFloat)};
  difficulty_.assign(static_cast<size_t>(S), 0);
  std::vector<int64_t> cells(static_cast<size_t>(S * batch_));
  at::parallel_for(0, S, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t seed = active_[static_cast<size_t>(row)];
      const uint64_t name = machine_->seeds()[static_cast<size_t>(seed)];
      const auto place = static_cast<uint64_t>(step);
      RandomSequence levels(CounterRandom(name, "ram.level"), 3 * place);
      RandomSequence random(CounterRandom(name, "ram.instances"), place << 32);
      const int64_t d = Curriculum(curriculum(), seeds_.states()[static_cast<size_t>(seed)].curriculum).draw(levels);
      difficulty_[static_cast<size_t>(row)] = d;
      for (int64_t i = 0; i < batch_; ++i) {
        const RamInstance instance = sample(task_, d, static_cast<uint32_t>(M_), random);
        cells[static_cast<size_t>(row * batch_ + i)] = std::ssize(instance.answer.cells);
        batch.set(row, i, instance);
      }
      input.steps.mutable_data_ptr<int64_t>()[row] = task_.training_steps(d);
      input.bonus.mutable_data_ptr<float>()[row] = static_cast<float>(seeds_.entropy_bonus(seed, step));
    }
  });
  output_ = machine_->run(input, true, S == plan_.search.seeds ? std::vector<int64_t>{} : active_);

  error_.assign(static_cast<size_t>(S), 0);
  mean_loss_ = 0;
  int64_t finite = 0;
  for (int64_t row = 0; row < S; ++row) {
    for (int64_t i = 0; i < batch_; ++i) {
      error_[static_cast<size_t>(row)] +=
          task_.curriculum_error(output_.wrong.const_data_ptr<int32_t>()[row * batch_ + i],
                                 cells[static_cast<size_t>(row * batch_ + i)]) /
          static_cast<double>(batch_);
    }
    const double value = output_.objective.const_data_ptr<float>()[row];
    if (!std::isfinite(value)) continue;
    mean_loss_ += value;
    ++finite;
  }
  if (finite > 0) mean_loss_ /= static_cast<double>(finite);
  return at::scalar_tensor(mean_loss_);
}

StepReport RamLearning::update(int64_t step, int64_t, OptimizerSet&, double) {
  const auto S = std::ssize(active_);
  const int64_t P = machine_->parameter_count();
  at::parallel_for(0, S, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t seed = active_[static_cast<size_t>(row)];
      const bool good = output_.sound.const_data_ptr<bool>()[row] &&
                        seeds_.apply(seed, step, output_.gradient.const_data_ptr<float>() + row * P);
      // A seed whose numbers went bad stops with its last good parameters; the others go on.
      if (!good) seeds_.states()[static_cast<size_t>(seed)].phase = RamPhase::broken;
    }
  });
  for (int64_t row = 0; row < S; ++row) follow(active_[static_cast<size_t>(row)], row, step);
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
  return {{"loss", mean_loss_}, {"seeds", seeds}};
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
Evaluation RamLearning::evaluate() {
  const int64_t D = plan_.data.difficulty;
  const std::vector<int64_t> far = {std::min<int64_t>(2 * D, 50), 50};
  int64_t solved = 0, generalises = 0, exact = 0;
  nlohmann::json seeds = nlohmann::json::array();
  double mean_error = 0, best_key = 1e9;
  int64_t best = 0;
  const int64_t S = plan_.search.seeds;
  for (int64_t s = 0; s < S; ++s) {
    const RamSeedState& state = seeds_.states()[static_cast<size_t>(s)];
    const auto soft =
        soft_errors(*machine_, s, task_, {D}, {.instances = 1000, .slacks = {plan_.data.slack}, .seed = 7});
    const auto discrete = discrete_errors(*machine_, s, task_, {D, 2 * D, 20, 35, 50}, {.instances = 1000});
    const bool is_solved = soft[0].wrong_cells == 0;
    nlohmann::json entry = {{"seed", machine_->seeds()[static_cast<size_t>(s)]},
                            {"phase", name_of(state.phase)},
                            {"level", state.curriculum.level},
                            {"updates", state.updates},
                            {"learned_at", state.learned_at},
                            {"soft", to_json(soft)},
                            {"discrete", to_json(discrete)},
                            {"solved", is_solved}};
    double key = soft[0].cell_error() + largest_error(discrete);
    if (is_solved) {
      const auto further = soft_errors(*machine_, s, task_, far, {.instances = 256});
      for (const auto& row : to_json(further)) entry["soft"].push_back(row);
      generalises += largest_error(further) == 0;
      key += largest_error(further);
    }
    const bool is_exact = is_solved && largest_error(discrete) == 0;
    entry["exact"] = is_exact;
    solved += is_solved;
    exact += is_exact;
    mean_error += soft[0].cell_error() / static_cast<double>(S);
    if (key < best_key) {
      best_key = key;
      best = s;
    }
    seeds.push_back(std::move(entry));
  }
  return {{static_cast<double>(exact), static_cast<double>(solved), static_cast<double>(generalises), mean_error},
          {{"seeds", seeds},
           {"solved", rate_json(solved, S)},
           {"generalises", rate_json(generalises, S)},
           {"exact", rate_json(exact, S)},
           {"best", best}}};
}

// Every seed at every length, as it was trained and discretised.
Account RamLearning::account(const AccountOptions& options) {
  const std::vector<int64_t> lengths = options.lengths.empty() ? std::vector<int64_t>{5, 10, 20, 50} : options.lengths;
  for (const int64_t length : lengths) {
    if (length >= task_.minimum_difficulty) continue;
    fail(ExitCode::usage, "--lengths",
         fmt::format("lengths of {} must be at least {}", task_.name, task_.minimum_difficulty),
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
    if (best < 0 || state.best_error < seeds_.states()[static_cast<size_t>(best)].best_error)
      best = static_cast<int64_t>(s);
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

LoadedRam load_ram(const RunConfig& config, const CheckpointReader& checkpoint) {
  const auto* plan = dynamic_cast<const RamPlan*>(config.plan.get());
  if (plan == nullptr) fail(ExitCode::usage, "program", "RUN must be of the task ram", config.task);
  require_data(checkpoint, plan->data_key());
  LoadedRam loaded;
  loaded.task = plan->ram_task();
  loaded.machine = std::make_shared<NeuralRam>(plan->model, seed_list(*plan, static_cast<uint64_t>(config.seed)));
  load_model(checkpoint, *loaded.machine, {});
  // The manifest may have been changed by hand: what is no index counts as none.
  const auto pointer = nlohmann::json::json_pointer("/trainer/evaluation/details/best");
  const nlohmann::json& manifest = checkpoint.manifest();
  if (manifest.contains(pointer) && manifest.at(pointer).is_number_integer()) manifest.at(pointer).get_to(loaded.best);
  return loaded;
}

}  // namespace loci
