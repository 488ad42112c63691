#include "loci/train/checkpoint.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "loci/base/durable_file.h"
#include "tests/manifest_file.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_run.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

TEST(Checkpoint, OtherModelsAndOtherDataAreRefused) {
  const TemporaryFolder folder;
  TinyRun setting;
  train_in(folder / "run", setting);
  TinyRun other = setting;
  other.task.rows = 33;
  expect_error(ExitCode::input, "must be F32 [33, 4], got F32 [32, 4]", [&] { train_in(folder / "run", other); });
  other = setting;
  other.task.width = 5;
  expect_error(ExitCode::input, "weight must be F32 [5, 5]", [&] { train_in(folder / "run", other); });
  other = setting;
  other.task.data_key = "others";
  expect_error(ExitCode::input, "must have been trained on the data \"others\", got \"tiny\"",
               [&] { train_in(folder / "run", other); });
}

TEST(Checkpoint, ManifestsOfWrongTypesAreRefused) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.steps = 1;
  const std::vector<std::pair<std::string, nlohmann::json>> changes = {
      {"step", "nine"},  {"files", {1}}, {"files", {{"model.safetensors", 3}}},
      {"data", {1, 2}},  {"trainer", 7}, {"trainer", {{"seconds", "x"}}},
      {"tables", {1, 2}}};
  for (const auto& [name, value] : changes) {
    fs::remove_all(folder / "run");
    train_in(folder / "run", setting);
    rewrite_manifest(*newest_step_folder(folder / "run"), [&](nlohmann::json& manifest) { manifest[name] = value; });
    expect_error(ExitCode::input, "anifest", [&] { train_in(folder / "run", setting); });
  }
}

TEST(Checkpoint, EveryFlippedByteIsFound) {
  const TemporaryFolder folder;
  TinyRun setting;
  setting.train.steps = 1;
  setting.task.rows = 2;
  train_in(folder / "run", setting);
  const fs::path step = *newest_step_folder(folder / "run");
  for (const auto& entry : fs::directory_iterator(step)) {
    const std::string good = read_text_file(entry.path());
    for (size_t i = 0; i < good.size(); ++i) {
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(i)).put(static_cast<char>(good[i] ^ 1)).flush();
      EXPECT_THROW(CheckpointReader{step}, Error) << entry.path() << " byte " << i;
      file.seekp(static_cast<std::streamoff>(i)).put(good[i]).flush();
    }
  }
  EXPECT_NO_THROW(CheckpointReader{step});
}

}  // namespace
}  // namespace loci
