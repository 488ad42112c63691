// One list of cases, many questions: what the tests of every operator ask (docs/architecture.md, "Operators").
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "loci/base/cpu_level.h"

namespace loci::harness {

using torch::Tensor;

// The sizes at which vector code goes wrong.
inline const std::vector<int64_t> kSizes = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33};

// Equal in dtype, sizes and bits; any NaN equals any other.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  if (!a.is_floating_point()) return torch::equal(a, b);
  const auto canonical = [](const Tensor& x) {
    const auto integer = x.element_size() == 8 ? torch::kInt64 : x.element_size() == 4 ? torch::kInt32 : torch::kInt16;
    return torch::where(x.isnan(), torch::full_like(x, std::numeric_limits<double>::quiet_NaN()), x)
        .contiguous()
        .view(integer);
  };
  return torch::equal(canonical(a), canonical(b));
}

// The same values with strides no kernel likes: every second element of a larger tensor.
inline Tensor strided(const Tensor& x) {
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.push_back(2);
  Tensor wide = torch::zeros(sizes, x.options());
  wide.select(-1, 1).copy_(x);
  return wide.select(-1, 1);
}

// `run` gives the same bits with 1, 2, 3 and 8 threads, each twice.
inline void expect_same_bits_for_any_thread_count(const std::function<std::vector<Tensor>()>& run) {
  const int before = torch::get_num_threads();
  torch::set_num_threads(1);
  const std::vector<Tensor> expected = run();
  for (int threads : {1, 2, 3, 8}) {
    torch::set_num_threads(threads);
    for (int time = 0; time < 2; ++time) {
      const std::vector<Tensor> got = run();
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_TRUE(same_bits(got[i], expected[i])) << "result " << i << " with " << threads << " threads";
      }
    }
  }
  torch::set_num_threads(before);
}

// The error rule: the fast path's largest error against double is at most twice the definition's, plus one unit in the
// last place of the largest entry.
inline void expect_error_rule(const Tensor& fast, const Tensor& definition, const Tensor& exact) {
  ASSERT_EQ(fast.scalar_type(), definition.scalar_type());
  ASSERT_EQ(fast.sizes(), exact.sizes());
  ASSERT_EQ(exact.scalar_type(), torch::kDouble);
  if (exact.numel() == 0) return;
  const auto error = [&](const Tensor& x) { return (x.to(torch::kDouble) - exact).abs().max().item<double>(); };
  const double digits = fast.scalar_type() == torch::kDouble     ? 0x1p-52
                        : fast.scalar_type() == torch::kFloat    ? 0x1p-23
                        : fast.scalar_type() == torch::kBFloat16 ? 0x1p-7
                                                                 : 0x1p-10;
  const double largest = exact.abs().max().item<double>();
  const double unit = largest == 0 ? 0 : std::exp2(std::floor(std::log2(largest))) * digits;
  EXPECT_LE(error(fast), 2 * error(definition) + unit);
}

using Function = std::function<Tensor(const std::vector<Tensor>&)>;

// Gradients of sum(cotangent * f(inputs)) to the inputs that require one.
inline std::vector<Tensor> gradients(const Function& f, const std::vector<Tensor>& inputs, const Tensor& cotangent) {
  std::vector<Tensor> leaves, wanted;
  for (const Tensor& input : inputs) {
    leaves.push_back(input.detach().clone().set_requires_grad(input.requires_grad()));
    if (input.requires_grad()) wanted.push_back(leaves.back());
  }
  return torch::autograd::grad({f(leaves)}, wanted, {cotangent}, /*retain_graph=*/std::nullopt,
                               /*create_graph=*/false, /*allow_unused=*/false);
}

// The registered gradient against central differences, in double. f must be smooth around the inputs.
inline void expect_finite_differences(const Function& f, const std::vector<Tensor>& inputs) {
  torch::NoGradGuard no_grad;
  const Tensor value = f(inputs);
  ASSERT_EQ(value.scalar_type(), torch::kDouble);
  const Tensor cotangent = torch::randn_like(value);
  std::vector<Tensor> analytic;
  {
    torch::AutoGradMode grad(true);
    analytic = gradients(f, inputs, cotangent);
  }
  constexpr double step = 1e-6;
  size_t which = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad()) continue;
    Tensor numeric = torch::zeros_like(inputs[i]).detach();
    for (int64_t e = 0; e < inputs[i].numel(); ++e) {
      const auto moved = [&](double by) {
        std::vector<Tensor> near = inputs;
        near[i] = inputs[i].detach().clone();
        near[i].view(-1)[e] += by;
        return (f(near) * cotangent).sum().item<double>();
      };
      numeric.view(-1)[e] = (moved(step) - moved(-step)) / (2 * step);
    }
    EXPECT_TRUE(torch::allclose(analytic[which], numeric, 1e-6, 1e-7)) << "input " << i << "\n"
                                                                       << analytic[which] << "\n"
                                                                       << numeric;
    ++which;
  }
}

using Results = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

// Asks `run` on every device: on Meta for the sizes and dtypes of its results, on CUDA, where there is one, also for
// their values, within `tolerance` of the CPU's. Undefined inputs and results stay undefined.
inline void expect_the_same_on_every_device(const Results& run, const std::vector<Tensor>& inputs,
                                            double tolerance = 1e-5) {
  const std::vector<Tensor> expected = run(inputs);
  std::vector<torch::Device> devices = {torch::kMeta};
  if (torch::cuda::is_available()) devices.emplace_back(torch::kCUDA);
  for (const torch::Device& device : devices) {
    std::vector<Tensor> moved;
    for (const Tensor& input : inputs) moved.push_back(input.defined() ? input.to(device) : input);
    const std::vector<Tensor> got = run(moved);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i].defined(), expected[i].defined()) << device << ", result " << i;
      if (!got[i].defined()) continue;
      EXPECT_EQ(got[i].device().type(), device.type()) << "result " << i;
      EXPECT_EQ(got[i].sizes(), expected[i].sizes()) << device << ", result " << i;
      EXPECT_EQ(got[i].scalar_type(), expected[i].scalar_type()) << device << ", result " << i;
      if (device.is_meta()) continue;
      EXPECT_TRUE(torch::allclose(got[i].cpu(), expected[i], tolerance, tolerance, /*equal_nan=*/true))
          << device << ", result " << i;
    }
  }
}

// The first line of what `run` throws, or "" if it throws nothing.
inline std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace loci::harness
