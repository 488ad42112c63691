#include "loci/train/start_weights.h"

#include <gtest/gtest.h>

#include <string>

#include "loci/base/durable_file.h"
#include "loci/base/paths.h"
#include "loci/train/tensor_file.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_run.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

void quiet_notice(const std::string&) {}

// A run of 20 steps in folder/run, and its task.
std::unique_ptr<TinyTask> trained_tiny(const fs::path& folder) {
  std::unique_ptr<TinyTask> task;
  train_in(folder / "run", TinyRun(), &task);
  return task;
}

TinyTask new_tiny(const TinyOptions& options = {}) {
  TaskInputs inputs;
  inputs.seed = 9;
  inputs.batch = {4, 1};
  return {options, inputs};
}

at::Tensor weight_of(Task& task) {
  return task.module().named_parameters()["weight"];
}
at::Tensor rows_of(Task& task) {
  return task.tables().front().first->store().values();
}

TEST(StartWeights, OfARunAreParametersBuffersAndRows) {
  const TemporaryFolder folder;
  const auto trained = trained_tiny(folder.path());
  for (const char* source : {"run", "run/step-20"}) {
    TinyTask task = new_tiny();
    ASSERT_FALSE(rows_of(task).equal(rows_of(*trained)));
    const StartWeights start(folder / source, quiet_notice);
    EXPECT_EQ(start.checkpoint(), canonical_path(folder / "run/step-20"));
    EXPECT_EQ(
        start.copy_into(task),
        fmt::format("starts from {}: 2 of 2 tensors and 1 of 1 tables, the others as drawn", start.path().string()));
    EXPECT_TRUE(weight_of(task).equal(weight_of(*trained)));
    EXPECT_TRUE(task.module().named_buffers()["mean"].equal(trained->module().named_buffers()["mean"]));
    EXPECT_TRUE(rows_of(task).equal(rows_of(*trained)));
    EXPECT_EQ(task.extra_state().front().second.item<int64_t>(), 0);  // of the training before
  }
}

TEST(StartWeights, OfAFileLeaveTheRowsAsDrawn) {
  const TemporaryFolder folder;
  const auto trained = trained_tiny(folder.path());
  TinyTask task = new_tiny();
  const at::Tensor drawn = rows_of(task).clone();
  const StartWeights start(folder / "run/step-20/model.safetensors", quiet_notice);
  EXPECT_EQ(start.checkpoint(), "");
  start.copy_into(task);
  EXPECT_TRUE(weight_of(task).equal(weight_of(*trained)));
  EXPECT_TRUE(rows_of(task).equal(drawn));
}

TEST(StartWeights, WhatIsNoneIsRefusedByName) {
  const TemporaryFolder folder;
  trained_tiny(folder.path());
  const auto refused = [&](const std::string& source, const std::string& message, const TinyOptions& options = {}) {
    TinyTask task = new_tiny(options);
    const at::Tensor before = weight_of(task).clone();
    expect_error(ExitCode::input, message, [&] { StartWeights(folder / source, quiet_notice).copy_into(task); });
    EXPECT_TRUE(weight_of(task).equal(before)) << message;
  };
  refused("none",
          "none: start.weights must be a safetensors file, a run directory or one of its step-N folders, got "
          "nothing there");
  fs::create_directory(folder / "empty");
  refused("empty", "empty: start.weights must be");
  TinyOptions wide;
  wide.width = 5;
  refused("run", "step-20: mean must be [5], got [4]", wide);
  refused("run/step-20/model.safetensors", "model.safetensors: mean must be [5], got [4]", wide);
  TinyOptions filter;
  filter.has_filter = true;
  refused("run", "step-20: filter must be given (only what is new in the model may be missing), got none", filter);
  write_tensors(folder / "more", {{"weight", at::ones({4, 4})}, {"mean", at::ones({4})}, {"x", at::ones({1})}});
  refused("more", "more: every name must belong to the model, got x");
  const std::string whole = read_text_file(folder / "more");
  write_file_durably(folder / "more", whole.substr(0, whole.size() - 3));
  refused("more", "more");
  const fs::path model = folder / "run/step-20/model.safetensors";
  std::string damaged = read_text_file(model);
  damaged.back() ^= 1;
  write_file_durably(model, damaged);
  refused("run/step-20", "model.safetensors");
}

}  // namespace
}  // namespace loci
