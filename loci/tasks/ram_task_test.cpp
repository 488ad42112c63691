#include "loci/tasks/ram_task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "loci/base/stop_signal.h"
#include "loci/ops/ram_step/ram_step.h"
#include "loci/program/export_cpp.h"
#include "loci/program/reference_programs.h"
#include "loci/program/verify.h"
#include "loci/tasks/all.h"
#include "loci/tasks/discretise.h"
#include "loci/train/tensor_file.h"
#include "tests/op_harness.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

using testing::HasSubstr;

std::shared_ptr<RamPlan> small_plan(const std::string& task = "access") {
  auto plan = std::make_shared<RamPlan>();
  plan->data.task = task;
  plan->data.difficulty = 4;
  plan->model.width = 16;
  plan->search.seeds = 3;
  return plan;
}

TaskInputs inputs(uint64_t seed = 0, int64_t batch = 20) {
  TaskInputs in;
  in.seed = seed;
  in.batch = {batch, 1};
  return in;
}

OptimizerSet no_optimizers() {
  return OptimizerSet({}, {}, {}, 0);
}

void train(RamLearning& task, int64_t from, int64_t to) {
  OptimizerSet none = no_optimizers();
  for (int64_t step = from; step < to && !task.finished(); ++step) {
    task.loss(step, 0);
    task.update(step, to, none, 1);
  }
}

at::Tensor parameters(const RamLearning& task, int64_t seed) {
  return task.machine().parameters_of_seeds()[seed];
}

// The hand-written programs as controllers of the soft machine: one-hot weights must give the discrete machine's tapes.
TEST(RamTask, SoftMachinesWithOneHotWeightsRunTheReferencePrograms) {
  for (const std::string& name : ram_task_names()) {
    const RamTask task = ram_task(name);
    const RamProgram program = reference_program(name);
    const CircuitShape& shape = program.shape();
    for (const int64_t n : {task.minimum_difficulty, int64_t{5}}) {
      RandomSequence random(CounterRandom(3, name), static_cast<uint64_t>(n) << 20);
      for (int trial = 0; trial < 3; ++trial) {
        const auto M = static_cast<int64_t>(task.minimum_tape(n)) + trial;
        const RamInstance instance = sample(task, n, static_cast<uint32_t>(M), random);
        Tape discrete = instance.tape;
        const RamRunResult result = program.run(discrete, 1000);
        const RamStepOptions options = ram_step_options(shape.registers, shape.modules, shape.repeats, M);
        const std::vector<int64_t> cells(instance.tape.begin(), instance.tape.end());
        at::Tensor tape = torch::one_hot(torch::tensor(cells), M).to(torch::kDouble).unsqueeze(0);
        at::Tensor registers = torch::one_hot(torch::zeros({1, shape.registers}, torch::kLong), M).to(torch::kDouble);
        for (uint32_t step = 0; step < result.steps; ++step) {
          uint32_t pattern = 0;
          for (int r = 0; r < shape.registers; ++r) {
            pattern |= static_cast<uint32_t>(registers[0][r][0].item<double>() > 0.5) << r;
          }
          const Circuit& circuit = program.circuits()[static_cast<size_t>(program.table()[pattern])];
          at::Tensor logits = torch::full({1, options.logits()}, -1000.0, torch::kDouble);
          int64_t offset = 0;
          const auto choose = [&](int64_t length, int64_t source) {
            logits[0][offset + source] = 0;
            offset += length;
          };
          for (int i = 0; i < shape.size(); ++i) {
            const Circuit::Module& module = circuit.modules[static_cast<size_t>(i)];
            if (shape.module(i).operands > 0) choose(shape.registers + i, module.a);
            if (shape.module(i).operands > 1) choose(shape.registers + i, module.b);
          }
          for (const uint16_t source : circuit.sources) choose(shape.registers + shape.size(), source);
          std::tie(registers, tape) = ram_step(logits, registers, tape, options);
        }
        const at::Tensor got = tape.argmax(2)[0];
        for (int64_t i = 0; i < M; ++i) {
          EXPECT_EQ(got[i].item<int64_t>(), discrete[static_cast<size_t>(i)]) << name << " n " << n << " cell " << i;
        }
        EXPECT_LE((tape.amax(2) - 1).abs().max().item<double>(), 1e-12);
      }
    }
  }
}

// No level can rise before 50 updates.
TEST(RamTask, GivesASeedUpEarlyThatIsBelowTheEarlyLevel) {
  for (const auto& [level, given_up] : std::vector<std::pair<int64_t, int64_t>>{{2, 3}, {1, 0}}) {
    auto plan = small_plan();
    plan->search.early_updates = 5;
    plan->search.early_level = level;
    RamLearning task(*plan, inputs());
    train(task, 0, 4);
    EXPECT_EQ(task.seeds().count(RamPhase::unsolved), 0);
    train(task, 4, 10);
    EXPECT_EQ(task.seeds().count(RamPhase::unsolved), given_up);
    EXPECT_EQ(task.finished(), given_up > 0);
  }
}

TEST(RamTask, ASeedHasTheSameBitsAloneBesideOthersAndForAnyThreadCount) {
  auto plan = small_plan();
  plan->update.noise = 0.01;
  const int threads = at::get_num_threads();
  RamLearning together(*plan, inputs(5));
  at::set_num_threads(3);
  train(together, 0, 25);
  for (int64_t s = 0; s < 3; ++s) {
    auto one = small_plan();
    one->update.noise = 0.01;
    one->search.seeds = 1;
    at::set_num_threads(static_cast<int>(1 + s % 2));
    RamLearning alone(*one, inputs(5 + static_cast<uint64_t>(s)));
    train(alone, 0, 25);
    EXPECT_TRUE(harness::same_bits(parameters(alone, 0), parameters(together, s))) << s;
    EXPECT_EQ(alone.seeds().states()[0].curriculum, together.seeds().states()[static_cast<size_t>(s)].curriculum);
  }
  at::set_num_threads(threads);
}

TEST(RamTask, GoesOnFromItsStateWithTheSameBits) {
  auto plan = small_plan();
  plan->anneal.begin_error = 1;  // anneals at once when the last level is reached
  plan->data.raise_error = 1;
  plan->data.gap = 5;
  plan->anneal.check_every = 5;
  RamLearning whole(*plan, inputs());
  train(whole, 0, 60);
  ASSERT_GT(whole.seeds().count(RamPhase::annealing), 0);

  RamLearning first(*plan, inputs());
  train(first, 0, 37);
  RamLearning second(*plan, inputs());
  second.module().parameters()[0].detach().copy_(first.module().parameters()[0].detach());
  const auto from = first.extra_state();
  const auto to = second.extra_state();
  ASSERT_EQ(from.size(), to.size());
  for (size_t i = 0; i < from.size(); ++i) to[i].second.copy_(from[i].second);
  second.extra_state_loaded();
  train(second, 37, 60);
  for (int64_t s = 0; s < 3; ++s) EXPECT_TRUE(harness::same_bits(parameters(second, s), parameters(whole, s)));
  EXPECT_EQ(second.training_measures(true).dump(), whole.training_measures(true).dump());
}

TEST(RamTask, ASeedWhoseNumbersGoBadStopsAndTheOthersGoOn) {
  RamLearning task(*small_plan(), inputs());
  at::Tensor row = task.module().parameters()[0].detach()[1];
  row[7] = std::numeric_limits<float>::quiet_NaN();
  OptimizerSet none = no_optimizers();
  EXPECT_TRUE(task.loss(0, 0).isfinite().item<bool>());
  task.update(0, 10, none, 1);
  EXPECT_EQ(task.seeds().states()[1].phase, RamPhase::broken);
  EXPECT_EQ(task.seeds().count(RamPhase::learning), 2);
  train(task, 1, 3);
  EXPECT_EQ(task.seeds().updates(0), 3);
}

TEST(RamTask, DiscretisationTakesTheFirstOfEqualsAndStopsAboveZero) {
  const CircuitShape shape{.registers = 2};
  std::vector<float> logits(static_cast<size_t>(ram_step_options(2, shape.modules, 1, 5).logits()) + 1, 0.0F);
  logits[1] = 1;  // READ's pointer is r1
  EXPECT_EQ(circuit_of(shape, logits).modules[0].a, 1);
  EXPECT_EQ(circuit_of(shape, logits).modules[4].a, 0);
  EXPECT_FALSE(circuit_of(shape, logits).stop);
  logits.back() = 1e-6F;
  EXPECT_TRUE(circuit_of(shape, logits).stop);
}

TEST(RamTask, AnLstmHasNoTableButRuns) {
  auto plan = small_plan();
  plan->model.controller = "lstm";
  RamLearning task(*plan, inputs());
  train(task, 0, 3);
  EXPECT_THAT(harness::message_of([&] { discretise(task.machine(), 0); }),
              HasSubstr("program: a program must come from an mlp controller"));
  Tape tape = {2, 5, 3, 4, 0, 0};
  EXPECT_EQ(discrete_runner(task.machine(), 0)(tape, 4).steps <= 4, true);
}

TEST(RamTask, ADiscreteTableHoldsEachCircuitOnce) {
  auto plan = small_plan();
  plan->model.registers = 6;
  const NeuralRam machine(plan->model, {4});
  int calls = 0;
  const RamProgram program = discretise(machine, 0, [&calls] { ++calls; });
  EXPECT_EQ(calls, 1);
  ASSERT_EQ(program.table().size(), 64u);
  NeuralRamController controller(machine, 0);
  for (uint32_t pattern = 0; pattern < 64; ++pattern) {
    std::vector<float> x;
    for (int r = 0; r < 6; ++r) x.push_back(static_cast<float>(pattern >> r & 1));
    EXPECT_EQ(program.circuits()[static_cast<size_t>(program.table()[pattern])],
              circuit_of(circuit_shape(plan->model), controller(x)));
  }
  for (size_t i = 0; i < program.circuits().size(); ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_FALSE(program.circuits()[i] == program.circuits()[j]) << i << " " << j;
  }
}

TEST(RamTask, DiscretisationEndsWhenItIsAskedTo) {
  struct Asked {};
  const RamLearning task(*small_plan(), inputs());
  EXPECT_THROW(discretise(task.machine(), 0, [] { throw Asked(); }), Asked);
  EXPECT_THROW(discrete_errors(task.machine(), 0, ram_task("access"), {4}, {.between = [] { throw Asked(); }}), Asked);
  auto plan = small_plan();
  plan->model.registers = kMostRegisters + 1;
  EXPECT_THAT(harness::message_of([&] { discretise(NeuralRam(plan->model, {0}), 0); }),
              HasSubstr("registers must be at most 14 for a table, got 15"));
}

// A signal during the evaluation of a run.
TEST(RamTask, EvaluationHeedsASignal) {
  const StopSignal signals("stopping");
  RamLearning task(*small_plan(), inputs());
  raise(SIGTERM);
  EXPECT_THROW(task.evaluate(), Interrupted);
}

TEST(RamTask, AStateOfASeedThatCannotBeIsABrokenFile) {
  RamLearning task(*small_plan(), inputs());
  const at::Tensor state = task.extra_state()[0].second;  // [S, numbers]
  task.extra_state_loaded();
  for (const auto& [at, value] : std::vector<std::pair<int64_t, double>>{{0, -1}, {0, 7}, {2, NAN}, {4, 1e16}}) {
    const at::Tensor before = state.clone();
    state[1][at] = value;
    expect_error(ExitCode::input, "seeds.state: a seed's state must be finite numbers, the first of them a phase",
                 [&] { task.extra_state_loaded(); });
    state.copy_(before);
  }
}

// Manifests with a right sum and wrong types.
TEST(RamTask, ABestSeedThatIsNoneIsABrokenFile) {
  const TemporaryFolder folder;
  RunConfig config;
  config.task = "ram";
  config.plan = small_plan();
  const NeuralRam machine(small_plan()->model, {0, 1, 2});
  int64_t step = 0;
  const auto loaded = [&](const nlohmann::json& data, const nlohmann::json& evaluation) {
    CheckpointWriter writer(folder.path(), ++step);
    write_tensors(writer.file("model.safetensors"), {{"controllers", machine.parameters_of_seeds()}});
    writer.finish({{"data", data}, {"trainer", {{"evaluation", evaluation}}}}, 0);
    return load_ram(config, CheckpointReader(folder / fmt::format("step-{}", step)));
  };
  const std::string data = small_plan()->data_key();
  const auto evaluated = [](const nlohmann::json& best) { return nlohmann::json{{"details", {{"best", best}}}}; };
  EXPECT_EQ(loaded(data, evaluated(2)).best, 2);
  EXPECT_EQ(loaded(data, nullptr).best, 0);
  for (const nlohmann::json& best : std::vector<nlohmann::json>{"x", 1.5, -1, 3, nullptr, uint64_t{1} << 63}) {
    expect_error(ExitCode::input, "trainer.evaluation.details.best must be an integer from 0 to 2",
                 [&] { loaded(data, evaluated(best)); });
  }
  expect_error(ExitCode::input, "member \"data\" must be of its type", [&] { loaded(7, evaluated(2)); });
}

int exact_access_seeds(const RamLearning& task) {
  int exact = 0;
  for (size_t s = 0; s < task.seeds().states().size(); ++s) {
    if (task.seeds().states()[s].phase != RamPhase::finished) continue;
    bool good = true;
    for (const RamError& error : discrete_errors(task.machine(), static_cast<int64_t>(s), ram_task("access"),
                                                 {5, 10, 50}, {.instances = 1000})) {
      good = good && error.wrong_cells == 0;
    }
    exact += good;
  }
  return exact;
}

// The learning test of the specification: access, four seeds, at least three solved, their programs exact to length 50.
// Proves that gradients, curriculum, anneal and discretisation work together.
TEST(RamTask, LearnsAccess) {
  RamPlan plan;
  plan.search.seeds = 4;
  plan.data.difficulty = 5;
  plan.search.learn_updates = 1500;
  plan.search.enough = 3;
  RamLearning task(plan, inputs(0, 64));
  train(task, 0, 3000);
  EXPECT_GE(exact_access_seeds(task), 3);
}

// The same with a memory cell in the controller: it has no table, so its circuits are made discrete one by one.
TEST(RamTask, LearnsAccessWithAnLstm) {
  RamPlan plan;
  plan.model.controller = "lstm";
  plan.model.width = 32;
  plan.search.seeds = 3;
  plan.data.difficulty = 4;
  plan.search.learn_updates = 1200;
  plan.search.enough = 2;
  RamLearning task(plan, inputs(0, 32));
  train(task, 0, 2400);
  EXPECT_GE(exact_access_seeds(task), 2);
}

Recipe recipe_of(const std::string& text) {
  return read_recipe(Config::from_text(text, "recipe.toml"), {}, all_tasks());
}

TEST(RamTask, RefusesImpossibleRecipes) {
  const auto message = [](const std::string& text) {
    return harness::message_of([&] { recipe_of("task = \"ram\"\n" + text); });
  };
  EXPECT_THAT(message("[data]\ntask = \"copi\"\n"), HasSubstr("data.task"));
  EXPECT_THAT(message("[data]\ntask = \"swap\"\ndifficulty = 1\n"),
              HasSubstr("data.difficulty of swap must be at least 2, got 1"));
  EXPECT_THAT(message("[search]\nseeds = 2\nenough = 3\n"),
              HasSubstr("search.enough must be at most search.seeds = 2, got 3"));
  EXPECT_THAT(message("[model]\nregisters = 0\n"), HasSubstr("registers"));
  EXPECT_THAT(message("[model]\nregisters = 15\n"), HasSubstr("registers must be an integer from 1 to 14, got 15"));
  EXPECT_THAT(message("[optimizer]\nlearning_rate = 1.0\n"), HasSubstr("unknown key optimizer"));
  EXPECT_THAT(message("[data]\nslack = -1\n"), HasSubstr("slack"));
  EXPECT_EQ(message("[data]\ntask = \"copy\"\n"), "");
  EXPECT_THAT(harness::message_of([] {
                TaskInputs in = inputs();
                in.batch = {20, 2};
                small_plan()->make(in);
              }),
              HasSubstr("train.accumulation of a ram task must be 1, got 2"));
}

TEST(RamTask, BelongsToItsTaskAndTape) {
  auto other = small_plan("increment");
  EXPECT_NE(RamLearning(*small_plan(), inputs()).data_key(), RamLearning(*other, inputs()).data_key());
}

}  // namespace
}  // namespace loci
