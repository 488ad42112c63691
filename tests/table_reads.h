// A small table, reads of it, and what a refusal must say.
//
// Legend: T tokens, K reads of a token, N rows, D width.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <string>

#include "loci/table/local_table.h"
#include "tests/row_gradient.h"

namespace loci {

inline constexpr int64_t kRows = 50, kWidth = 6, kTokens = 40, kReads = 8;

inline std::shared_ptr<LocalTable> make_table(at::ScalarType dtype = at::kFloat) {
  auto table = std::make_shared<LocalTable>("memory", kRows, kWidth, LocalTableOptions{dtype});
  table->store().initialise_normal(3, 1);
  return table;
}

struct Batch {
  at::Tensor index = torch::randint(0, kRows, {kTokens, kReads}, at::kLong);
  at::Tensor weight = torch::randn({kTokens, kReads});
  at::Tensor grad = torch::randn({kTokens, kWidth});  // of the output
};

// The action must throw an error of the framework with this text.
inline void expect_refusal(const std::string& part, const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "no error with: " << part;
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr(part));
  }
}

}  // namespace loci
