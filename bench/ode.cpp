#include "bench/ode.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "bench/timing.h"
#include "loci/nn/small/ode_block.h"

namespace loci::bench {
namespace {

using torch::Tensor;

constexpr int64_t kOdeSteps = 10;

struct OdeWork {
  std::string name;
  std::shared_ptr<torch::nn::SequentialImpl> field;
  Tensor x;
};

std::vector<OdeWork> ode_works() {
  namespace nn = torch::nn;
  const auto plain = nn::Sequential(nn::Linear(64, 64), nn::Tanh(), nn::Linear(64, 64)).ptr();
  const auto conv = [](int64_t in, int64_t out) { return nn::Conv2d(nn::Conv2dOptions(in, out, 3).padding(1)); };
  const auto maps = nn::Sequential(conv(16, 32), nn::Tanh(), conv(32, 16)).ptr();
  return {{"linear 128 x 64", plain, torch::randn({128, 64})},
          {"3x3 32 x 16 x 14 x 14", maps, torch::randn({32, 16, 14, 14})}};
}

// rk4 as one writes it.
Tensor by_hand(torch::nn::SequentialImpl& field, Tensor z) {
  const double h = 1.0 / kOdeSteps;
  for (int64_t i = 0; i < kOdeSteps; ++i) {
    const Tensor k1 = field.forward(z), k2 = field.forward(z + h / 2 * k1);
    const Tensor k3 = field.forward(z + h / 2 * k2), k4 = field.forward(z + h * k3);
    z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4);
  }
  return z;
}

std::shared_ptr<OdeBlock> block_of(const OdeWork& work, OdeGradient gradient) {
  OdeBlockOptions options;
  options.channels = work.x.size(1);
  options.solver.steps = kOdeSteps;
  options.gradient.kind = gradient;
  return std::make_shared<OdeBlock>(work.field, options);
}

void add_training(Timing& timing, const std::string& name, const OdeWork& work,
                  const std::function<Tensor(const Tensor&)>& run) {
  const Tensor x = work.x.clone().requires_grad_(), grad = torch::randn_like(work.x);
  std::vector<Tensor> inputs = work.field->parameters();
  inputs.push_back(x);
  timing.add(name, [=] { torch::autograd::grad({run(x)}, inputs, {grad}); }, Autograd::on);
}

nlohmann::json row_of(const Timing& timing, const OdeWork& work, const std::string& pass) {
  const std::string key = work.name + " " + pass;
  const std::vector<double> seconds = timing.seconds(key);
  const auto ms = [](double of_solution) { return of_solution * 1e3 / kOdeSteps; };
  const double median = timing.median(key), hand = timing.median(key + " by hand");
  nlohmann::json row = {{"field", work.name},
                        {"method", "rk4"},
                        {"steps", kOdeSteps},
                        {"pass", pass},
                        {"ms", ms(median)},
                        {"ms_least", ms(seconds.front())},
                        {"ms_most", ms(seconds.back())},
                        {"by_hand_ms", ms(hand)},
                        {"ratio", hand / median},
                        {"adjoint_ms", nullptr},
                        {"checkpoints_ms", nullptr}};
  if (pass == "training") {
    row["adjoint_ms"] = ms(timing.median(key + " adjoint"));
    row["checkpoints_ms"] = ms(timing.median(key + " checkpoints"));
  }
  return row;
}

}  // namespace

nlohmann::json run_ode(const BenchOptions& options) {
  torch::manual_seed(0);
  const std::vector<OdeWork> works = ode_works();
  Timing timing(options.repeats);
  add_machine(timing, 512, int64_t{1} << 26);
  for (const OdeWork& work : works) {
    const auto steps = block_of(work, OdeGradient::steps), adjoint = block_of(work, OdeGradient::adjoint);
    const auto checkpoints = block_of(work, OdeGradient::checkpoints);
    const auto hand = [field = work.field](const Tensor& x) { return by_hand(*field, x); };
    timing.add(work.name + " forward", [=, x = work.x] { steps->forward(x); });
    timing.add(work.name + " forward by hand", [=, x = work.x] { hand(x); });
    add_training(timing, work.name + " training", work, [=](const Tensor& x) { return steps->forward(x); });
    add_training(timing, work.name + " training by hand", work, hand);
    add_training(timing, work.name + " training adjoint", work, [=](const Tensor& x) { return adjoint->forward(x); });
    add_training(timing, work.name + " training checkpoints", work,
                 [=](const Tensor& x) { return checkpoints->forward(x); });
  }
  timing.run();
  nlohmann::json report = {{"machine", machine_json(machine_of(timing))},
                           {"repeats", options.repeats},
                           {"solutions", nlohmann::json::array()}};
  for (const OdeWork& work : works) {
    for (const char* pass : {"forward", "training"}) report["solutions"].push_back(row_of(timing, work, pass));
  }
  return report;
}

std::string ode_table(const nlohmann::json& report) {
  std::string text = fmt::format(
      "a step of rk4, median of {} repeats of {} steps\n\n{:<24} {:<9} {:>8} {:>17} {:>9} {:>8} {:>9} {:>12}\n",
      report["repeats"].get<int>(), kOdeSteps, "field", "pass", "ms", "least .. most", "by hand", "speed-up", "adjoint",
      "checkpoints");
  for (const nlohmann::json& row : report["solutions"]) {
    text += fmt::format("{:<24} {:<9} {:>8.3f} {:>17} {:>9.3f} {:>7.2f}x {:>9} {:>12}\n",
                        row["field"].get<std::string>(), row["pass"].get<std::string>(), row["ms"].get<double>(),
                        fmt::format("{:.3f} .. {:.3f}", row["ms_least"].get<double>(), row["ms_most"].get<double>()),
                        row["by_hand_ms"].get<double>(), row["ratio"].get<double>(),
                        number_or_dash(row["adjoint_ms"], "{:.3f}"), number_or_dash(row["checkpoints_ms"], "{:.3f}"));
  }
  return text;
}

}  // namespace loci::bench
