#include "loci/ops/table_read/table_read.h"

#include <gmock/gmock.h>

#include "loci/ops/table_read/table_project.h"
#include "loci/ops/table_read/table_read_cpu.h"
#include "loci/ops/table_read/table_read_definition.h"
#include "tests/op_harness.h"

// Legend: T tokens, K reads of a token, N rows, D width.

namespace loci::table_read_test {
namespace {

using harness::same_bits;
using harness::strided;
using ::testing::HasSubstr;
using torch::Tensor;

struct Case {
  int64_t T, K, N, D;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "T " << c.T << " K " << c.K << " N " << c.N << " D " << c.D;
}

struct Inputs {
  Tensor table, index, weight, grad;
};

Inputs inputs_of(const Case& c, torch::ScalarType type) {
  const auto real = type == torch::kDouble ? torch::kDouble : torch::kFloat;
  return {torch::randn({c.N, c.D}, torch::kDouble).to(type), torch::randint(c.N, {c.T, c.K}, torch::kLong),
          torch::randn({c.T, c.K}, real), torch::randn({c.T, c.D}, real)};
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (int64_t D : harness::kSizes) list.push_back({5, 6, 3, D});  // more reads than rows: indices repeat
  for (int64_t K : harness::kSizes) list.push_back({4, K, 11, 9});
  for (int64_t T : harness::kSizes) list.push_back({T, 5, 7, 20});
  return list;
}

const auto kTypes = {torch::kDouble, torch::kFloat, torch::kBFloat16, torch::kHalf};

// The order of the additions is the contract's, so the sums agree in every bit, also of low-precision tables.
TEST(TableRead, EqualsItsDefinitionAtEveryLevel) {
  torch::manual_seed(0);
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::PrintToString(c));
    for (auto type : kTypes) {
      const Inputs in = inputs_of(c, type);
      const Tensor expected = table_read_definition(in.table, in.index, in.weight);
      const Tensor padded = torch::zeros({c.N, c.D + 3}, in.table.options());
      padded.narrow(1, 1, c.D).copy_(in.table);
      for (CpuLevel level : cpu_levels()) {
        EXPECT_TRUE(same_bits(table_read_cpu(in.table, in.index, in.weight, std::nullopt, level), expected))
            << name_of(level);
        EXPECT_TRUE(same_bits(
            table_read_cpu(padded.narrow(1, 1, c.D), strided(in.index), strided(in.weight), std::nullopt, level),
            expected));
        EXPECT_TRUE(same_bits(table_read_cpu(strided(in.table), in.index, in.weight, std::nullopt, level), expected));
      }
    }
  }
}

TEST(TableRead, ConvertsEveryFloat16AndBfloat16Exactly) {
  const Tensor bits = torch::arange(65536, torch::kInt).to(torch::kShort).view({65536, 1});
  for (auto type : {torch::kHalf, torch::kBFloat16}) {
    const Tensor table = bits.view(type).expand({65536, 8}).contiguous();
    const Tensor index = torch::arange(65536, torch::kLong).view({-1, 1});
    const Tensor expected = table_read_definition(table, index, torch::ones({65536, 1}));
    for (CpuLevel level : cpu_levels()) {
      EXPECT_TRUE(same_bits(table_read_cpu(table, index, torch::ones({65536, 1}), std::nullopt, level), expected));
    }
  }
}

TEST(TableRead, ProjectKeepsTheErrorRuleAndItsBitsAtEveryLevel) {
  torch::manual_seed(1);
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::PrintToString(c));
    for (auto type : kTypes) {
      const Inputs in = inputs_of(c, type);
      const Tensor definition = table_project_definition(in.table, in.index, in.grad);
      const Tensor exact = table_project_definition(in.table.to(torch::kDouble), in.index, in.grad.to(torch::kDouble));
      const Tensor base = table_project_cpu(in.table, in.index, in.grad, std::nullopt, CpuLevel::base);
      if (type == torch::kDouble) {
        EXPECT_TRUE(torch::allclose(base, exact, 1e-13, 1e-13));
      } else {
        harness::expect_error_rule(base, definition, exact);
      }
      for (CpuLevel level : cpu_levels()) {
        EXPECT_TRUE(
            same_bits(table_project_cpu(in.table, strided(in.index), strided(in.grad), std::nullopt, level), base));
      }
    }
  }
}

TEST(TableRead, ScalesInt8Rows) {
  torch::manual_seed(5);
  std::vector<Case> list = cases();
  for (const int64_t D : {63, 64, 65, 130}) list.push_back({5, 6, 3, D});
  for (const Case& c : list) {
    SCOPED_TRACE(::testing::PrintToString(c));
    const Inputs in = inputs_of(c, torch::kFloat);
    const Tensor table = torch::randint(-127, 128, {c.N, c.D}, torch::kChar), scale = torch::rand({c.N});
    const Tensor read = table_read_definition(table, in.index, in.weight, scale);
    const Tensor dw = table_project_definition(table, in.index, in.grad, scale);
    const Tensor rows = table.to(torch::kDouble) * scale.to(torch::kDouble).unsqueeze(1);
    const Tensor exact = table_project_definition(rows, in.index, in.grad.to(torch::kDouble));
    EXPECT_TRUE(torch::allclose(read.to(torch::kDouble),
                                table_read_definition(rows, in.index, in.weight.to(torch::kDouble)), 1e-4, 1e-4));
    const Tensor base = table_project_cpu(table, in.index, in.grad, scale, CpuLevel::base);
    harness::expect_error_rule(base, dw, exact);
    for (CpuLevel level : cpu_levels()) {
      EXPECT_TRUE(same_bits(table_read_cpu(table, in.index, in.weight, scale, level), read)) << name_of(level);
      EXPECT_TRUE(same_bits(table_read_cpu(strided(table), in.index, in.weight, strided(scale), level), read));
      EXPECT_TRUE(same_bits(table_project_cpu(table, in.index, in.grad, scale, level), base));
    }
  }
}

TEST(TableRead, GivesTheWeightsOfInt8RowsTheirGradient) {
  torch::manual_seed(6);
  const Inputs in = inputs_of({4, 5, 6, 7}, torch::kFloat);
  const Tensor table = torch::randint(-127, 128, {6, 7}, torch::kChar), scale = torch::rand({6});
  const Tensor weight = in.weight.clone().requires_grad_();
  table_read(table, in.index, weight, scale).backward(in.grad);
  EXPECT_TRUE(same_bits(weight.grad(), table_project(table, in.index, in.grad, scale)));
}

TEST(TableRead, FindsABadIndexInAnyPlace) {
  torch::manual_seed(7);
  const Inputs in = inputs_of({9, 13, 8, 6}, torch::kFloat);
  for (int64_t place = 0; place < 9 * 13; ++place) {
    for (const int64_t bad :
         {int64_t{8}, int64_t{-1}, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()}) {
      const Tensor index = in.index.clone();
      index.view(-1)[place] = bad;
      const std::string expected = "index must be within 0 .. 7, got " + std::to_string(bad);
      for (CpuLevel level : cpu_levels()) {
        EXPECT_THAT(harness::message_of([&] { table_read_cpu(in.table, index, in.weight, std::nullopt, level); }),
                    HasSubstr(expected));
        EXPECT_THAT(harness::message_of([&] { table_project_cpu(in.table, index, in.grad, std::nullopt, level); }),
                    HasSubstr(expected));
      }
    }
  }
}

TEST(TableRead, GradientEqualsThatOfTheDefinitionAndFiniteDifferences) {
  torch::manual_seed(2);
  const Case c{4, 5, 6, 7};
  Inputs in = inputs_of(c, torch::kDouble);
  const std::vector<Tensor> inputs = {in.table.set_requires_grad(true), in.weight.set_requires_grad(true)};
  const auto registered = [&](const std::vector<Tensor>& x) { return table_read(x[0], in.index, x[1]); };
  const auto definition = [&](const std::vector<Tensor>& x) { return table_read_definition(x[0], in.index, x[1]); };
  const auto got = harness::gradients(registered, inputs, in.grad);
  const auto expected = harness::gradients(definition, inputs, in.grad);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(torch::allclose(got[i], expected[i], 1e-12, 1e-13));
  harness::expect_finite_differences(registered, inputs);
}

TEST(TableRead, ProjectHasGradientsOfTheDefinitionAndFiniteDifferences) {
  torch::manual_seed(8);
  Inputs in = inputs_of({4, 5, 6, 7}, torch::kDouble);
  const std::vector<Tensor> inputs = {in.table.set_requires_grad(true), in.grad.set_requires_grad(true)};
  const auto registered = [&](const std::vector<Tensor>& x) { return table_project(x[0], in.index, x[1]); };
  const auto definition = [&](const std::vector<Tensor>& x) { return table_project_definition(x[0], in.index, x[1]); };
  const auto got = harness::gradients(registered, inputs, in.weight);
  const auto expected = harness::gradients(definition, inputs, in.weight);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(torch::allclose(got[i], expected[i], 1e-12, 1e-13));
  harness::expect_finite_differences(registered, inputs);
}

TEST(TableRead, ProjectOfFrozenRowsHasTheGradientOfItsVectors) {
  torch::manual_seed(9);
  const Inputs in = inputs_of({4, 5, 6, 7}, torch::kFloat);
  const Tensor rows = torch::randint(-127, 128, {6, 7}, torch::kChar), scale = torch::rand({6});
  for (const bool int8 : {false, true}) {
    const Tensor table = int8 ? rows : in.table;
    const std::optional<Tensor> given = int8 ? std::optional(scale) : std::nullopt;
    const Tensor x = in.grad.clone().requires_grad_();
    table_project(table, in.index, x, given).backward(in.weight);
    EXPECT_TRUE(same_bits(x.grad(), table_read(table, in.index, in.weight, given)));
  }
}

TEST(TableRead, GradientOfALowPrecisionTableHasItsDtype) {
  torch::manual_seed(3);
  Inputs in = inputs_of({4, 5, 6, 7}, torch::kBFloat16);
  in.table.set_requires_grad(true);
  table_read(in.table, in.index, in.weight).backward(in.grad);
  EXPECT_EQ(in.table.grad().scalar_type(), torch::kBFloat16);
  const Tensor exact = table_read_backward_table(in.grad.to(torch::kDouble), in.table.to(torch::kDouble), in.index,
                                                 in.weight.to(torch::kDouble));
  EXPECT_TRUE(torch::equal(in.table.grad(), exact.to(torch::kBFloat16)));
}

TEST(TableRead, HasTheSameBitsForAnyThreadCount) {
  torch::manual_seed(4);
  const Inputs in = inputs_of({301, 12, 50, 70}, torch::kFloat);
  harness::expect_same_bits_for_any_thread_count([&]() -> std::vector<Tensor> {
    return {table_read(in.table, in.index, in.weight), table_project(in.table, in.index, in.grad),
            table_read_backward_table(in.grad, in.table, in.index, in.weight)};
  });
}

TEST(TableRead, AnswersOnEveryDevice) {
  torch::manual_seed(11);
  const auto run = [](const std::vector<Tensor>& x) -> std::vector<Tensor> {
    const std::optional<Tensor> scale = x[4].defined() ? std::optional(x[4]) : std::nullopt;
    std::vector<Tensor> results = {table_read(x[0], x[1], x[2], scale), table_project(x[0], x[1], x[3], scale)};
    if (!scale) results.push_back(table_read_backward_table(x[3], x[0], x[1], x[2]));
    return results;
  };
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::PrintToString(c));
    for (auto type : kTypes) {
      const Inputs in = inputs_of(c, type);
      harness::expect_the_same_on_every_device(run, {in.table, in.index, in.weight, in.grad, Tensor()}, 1e-2);
    }
    const Inputs in = inputs_of(c, torch::kFloat);
    const Tensor rows = torch::randint(-127, 128, {c.N, c.D}, torch::kChar);
    harness::expect_the_same_on_every_device(run, {rows, in.index, in.weight, in.grad, torch::rand({c.N})}, 1e-3);
  }
}

TEST(TableRead, RefusesBadInputInThreeParts) {
  const Inputs in = inputs_of({4, 3, 9, 6}, torch::kFloat);
  const auto message = [](const Tensor& table, const Tensor& index, const Tensor& weight) {
    return harness::message_of([&] { table_read(table, index, weight); });
  };
  EXPECT_THAT(message(in.table, in.index.to(torch::kInt), in.weight),
              HasSubstr("table_read: index must be int64, got Int"));
  EXPECT_THAT(message(in.table, in.index + 9, in.weight), HasSubstr("table_read: index must be within 0 .. 8, got "));
  EXPECT_THAT(message(in.table, in.index - 9, in.weight), HasSubstr("table_read: index must be within 0 .. 8, got -"));
  EXPECT_THAT(message(in.table[0], in.index, in.weight), HasSubstr("table must have 2 dimensions [N, D], got 1"));
  EXPECT_THAT(message(in.table.to(torch::kInt), in.index, in.weight), HasSubstr("table must be float64, float32"));
  EXPECT_THAT(message(in.table.to(torch::kChar), in.index, in.weight),
              HasSubstr("scale must be given for int8 rows alone, got none for a table of Char"));
  EXPECT_THAT(harness::message_of([&] { table_read(in.table, in.index, in.weight, torch::ones({9})); }),
              HasSubstr("scale must be given for int8 rows alone, got one for a table of Float"));
  EXPECT_THAT(
      harness::message_of([&] { table_read(in.table.to(torch::kChar), in.index, in.weight, torch::ones({8})); }),
      HasSubstr("scale must be float32 [N] = [9], got Float [8]"));
  EXPECT_THAT(message(in.table, in.index[0], in.weight), HasSubstr("index must have 2 dimensions [T, K], got 1"));
  EXPECT_THAT(message(in.table, in.index, in.weight.t()),
              HasSubstr("weight must be [T, K] = [4, 3] like index, got [3, 4]"));
  EXPECT_THAT(message(in.table, in.index, in.weight.to(torch::kDouble)), HasSubstr("weight must be Float"));
  EXPECT_THAT(message(torch::zeros({0, 6}), in.index, in.weight), HasSubstr("index must be within 0 .. -1, got "));
  EXPECT_THAT(harness::message_of([&] { table_project(in.table, in.index, in.grad.t()); }),
              HasSubstr("table_project: x must be [T, D] = [4, 6], got [6, 4]"));
  EXPECT_THAT(harness::message_of([&] { table_project(in.table, in.index + 9, in.grad); }),
              HasSubstr("table_project: index must be within 0 .. 8, got "));
  EXPECT_THAT(harness::message_of([&] { table_read_backward_table(in.grad, in.table, in.index - 9, in.weight); }),
              HasSubstr("table_read_backward_table: index must be within 0 .. 8, got -"));
  const torch::InferenceMode inference;
  EXPECT_THROW(table_read(in.table, in.index + 9, in.weight), c10::IndexError);
}

TEST(TableRead, RefusesASecondDerivativeByName) {
  Inputs in = inputs_of({4, 3, 9, 6}, torch::kFloat);
  const auto refusal_of = [&](Tensor wanted, const auto& run) {
    wanted.set_requires_grad(true);
    const Tensor loss = run().square().sum();
    const Tensor grad = torch::autograd::grad({loss}, {wanted}, {}, std::nullopt, true)[0];
    const std::string message = harness::message_of([&] { grad.sum().backward(); });
    wanted.set_requires_grad(false);
    return message;
  };
  const auto read = [&] { return table_read(in.table, in.index, in.weight); };
  const auto project = [&] { return table_project(in.table, in.index, in.grad); };
  for (const Tensor& wanted : {in.table, in.weight}) {
    EXPECT_THAT(refusal_of(wanted, read), HasSubstr("table_read: a second derivative is not implemented"));
  }
  for (const Tensor& wanted : {in.table, in.grad}) {
    EXPECT_THAT(refusal_of(wanted, project), HasSubstr("table_project: a second derivative is not implemented"));
  }
  const Tensor table = in.table.clone().requires_grad_(), weight = in.weight.clone().requires_grad_();
  const Tensor direct = table_read_backward_table(in.grad, table, in.index, weight);
  EXPECT_THAT(harness::message_of([&] { direct.sum().backward(); }),
              HasSubstr("derivative for loci::table_read_backward_table is not implemented"));
}

}  // namespace
}  // namespace loci::table_read_test
