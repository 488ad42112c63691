#include "loci/table/table_operators.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <memory>
#include <string>
#include <vector>

#include "loci/table/local_table.h"
#include "loci/table/row_store.h"

namespace loci::table_operators_test {
namespace {

using torch::Tensor;

constexpr int64_t kRows = 9, kWidth = 4, kTokens = 6, kReads = 3;

std::shared_ptr<LocalTable> drawn_table() {
  auto table = std::make_shared<LocalTable>("rows", kRows, kWidth);
  table->store().initialise_normal(1, 1);
  return table;
}

struct Inputs {
  Tensor index = torch::randint(kRows, {kTokens, kReads});
  Tensor weight = torch::randn({kTokens, kReads});
  Tensor x = torch::randn({kTokens, kWidth});
};

// The same numbers, gradients and sums of references as the table's own functions, for passes in any order.
TEST(TableOperators, DoWhatTheTableDoes) {
  torch::manual_seed(1);
  const auto own = drawn_table(), named = drawn_table();
  const Tensor use = use_of_table(*named), anchor = torch::zeros({1}, torch::requires_grad());
  const int64_t own_use = own->register_use();
  const Inputs inputs;
  std::vector<Tensor> losses, own_losses, leaves, own_leaves;
  for (int pass = 0; pass < 2; ++pass) {
    for (auto* leaf : {&leaves, &own_leaves}) {
      leaf->push_back((inputs.weight * (pass + 1)).requires_grad_());
      leaf->push_back((inputs.x * (pass + 2)).requires_grad_());
    }
    const Tensor weight = leaves[leaves.size() - 2], x = leaves.back();
    const Tensor y = std::get<0>(read_table(named->store().values(), inputs.index, weight, {}, use, anchor));
    const Tensor z = std::get<0>(project_table(named->store().values(), inputs.index, x, {}, use, anchor));
    const Tensor own_y = own->read(inputs.index, own_leaves[own_leaves.size() - 2], own_use);
    const Tensor own_z = own->project(inputs.index, own_leaves.back(), own_use);
    EXPECT_TRUE(torch::equal(y, own_y));
    EXPECT_TRUE(torch::equal(z, own_z));
    losses.push_back(y.square().sum() + z.square().sum());
    own_losses.push_back(own_y.square().sum() + own_z.square().sum());
  }
  EXPECT_TRUE(named->store().references().empty());
  losses[0].backward();
  losses[1].backward();
  own_losses[1].backward();
  own_losses[0].backward();
  for (size_t i = 0; i < leaves.size(); ++i) EXPECT_TRUE(torch::equal(leaves[i].grad(), own_leaves[i].grad())) << i;
  EXPECT_TRUE(torch::equal(anchor.grad(), torch::zeros({1})));
  const RowGradient sum = named->store().references().sum(), own_sum = own->store().references().sum();
  EXPECT_TRUE(torch::equal(sum.row, own_sum.row));
  EXPECT_TRUE(torch::equal(sum.gradient, own_sum.gradient));
}

// The rows get their gradient through the anchor: also where no input needs one, and not without it.
TEST(TableOperators, TheAnchorDecidesWhetherReferencesAreLeft) {
  const auto table = drawn_table();
  const Tensor use = use_of_table(*table), anchor = torch::zeros({1}, torch::requires_grad());
  const Inputs inputs;
  const auto read = [&](const Tensor& weight, const Tensor& with) {
    return std::get<0>(read_table(table->store().values(), inputs.index, weight, {}, use, with)).sum();
  };
  read(inputs.weight, anchor).backward();
  EXPECT_FALSE(table->store().references().empty());
  table->store().references().clear();

  const Tensor weight = inputs.weight.clone().requires_grad_();
  read(weight, torch::zeros({1})).backward();
  EXPECT_TRUE(table->store().references().empty());
  torch::autograd::grad({read(weight, anchor)}, {weight});
  EXPECT_TRUE(table->store().references().empty());
  table->set_frozen(true);
  read(weight, anchor).backward();
  EXPECT_TRUE(table->store().references().empty());
}

// What is left does not depend on what becomes of the tensors.
TEST(TableOperators, ReferencesAreCopies) {
  const auto table = drawn_table();
  const Tensor use = use_of_table(*table), anchor = torch::zeros({1}, torch::requires_grad());
  const Inputs inputs;
  std::get<0>(read_table(table->store().values(), inputs.index, inputs.weight, {}, use, anchor)).sum().backward();
  const RowGradient before = table->store().references().sum();
  inputs.index.zero_();
  inputs.weight.zero_();
  EXPECT_TRUE(torch::equal(table->store().references().sum().gradient, before.gradient));
}

TEST(TableOperators, RefuseWhatNamesNoTable) {
  auto table = drawn_table();
  const Tensor use = use_of_table(*table), anchor = torch::zeros({1});
  const Inputs inputs;
  const Tensor values = table->store().values();
  const auto message = [&](const Tensor& index, const Tensor& which) {
    return [&, index, which] { read_table(values, index, inputs.weight, {}, which, anchor); };
  };
  EXPECT_THAT(message(inputs.index, torch::tensor({int64_t{0}, int64_t{0}})),
              testing::ThrowsMessage<c10::Error>(testing::HasSubstr("use must name a table of this process, got 0")));
  EXPECT_THAT(message(inputs.index, torch::zeros({3}, torch::kLong)),
              testing::ThrowsMessage<c10::Error>(testing::HasSubstr("use must be int64 [2] on cpu, got Long [3]")));
  EXPECT_THAT(message(inputs.index + kRows, use),
              testing::ThrowsMessage<c10::IndexError>(testing::HasSubstr("read_table: index must be within 0 .. 8")));
  const int64_t number = use[0].item<int64_t>();
  table.reset();
  EXPECT_THAT(message(inputs.index, use), testing::ThrowsMessage<c10::Error>(testing::HasSubstr(
                                              "use must name a table of this process, got " + std::to_string(number))));
}

}  // namespace
}  // namespace loci::table_operators_test
