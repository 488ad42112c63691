#include "loci/train/checkpoint_folder.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "loci/base/checksum.h"
#include "loci/base/durable_file.h"
#include "loci/base/random.h"
#include "loci/table/safetensors.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> names(const fs::path& folder) {
  std::vector<std::string> result;
  for (const auto& entry : fs::directory_iterator(folder)) result.push_back(entry.path().filename());
  std::sort(result.begin(), result.end());
  return result;
}

void write_checkpoint(const fs::path& run, int64_t step, int64_t keep_last = 0) {
  CheckpointWriter writer(run, step);
  write_file_durably(writer.file("a.txt"), "step " + std::to_string(step));
  write_file_durably(writer.file("b"), "");
  writer.finish({{"seed", 7}, {"versions", {{"loci", "0.1.0"}}}}, keep_last);
}

std::string open_error(const fs::path& folder) {
  try {
    const CheckpointReader reader(folder);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::input);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
}

// Overwrites without the ways of durable files.
void overwrite(const fs::path& path, const std::string& text) {
  FILE* file = fopen(path.c_str(), "wb");
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(fwrite(text.data(), 1, text.size(), file), text.size());
  fclose(file);
}

// One byte in place: writing the file anew would make some file systems wait for the disk.
void set_byte(const fs::path& path, size_t at, char byte) {
  const int descriptor = open(path.c_str(), O_WRONLY);
  ASSERT_GE(descriptor, 0);
  ASSERT_EQ(pwrite(descriptor, &byte, 1, static_cast<off_t>(at)), 1);
  close(descriptor);
}

TEST(CheckpointFolder, IsReadBackWithItsManifest) {
  const TemporaryFolder run;
  write_checkpoint(run.path(), 12);
  EXPECT_THAT(names(run.path()), ElementsAre("latest", "step-12"));
  EXPECT_THAT(names(run / "step-12"), ElementsAre("a.txt", "b", "manifest.json"));
  EXPECT_EQ(read_text_file(run / "latest"), "step-12\n");
  const CheckpointReader reader(run / "step-12");
  EXPECT_EQ(reader.step(), 12);
  EXPECT_EQ(reader.manifest().at("seed"), 7);
  EXPECT_EQ(reader.manifest().at("versions").at("loci"), "0.1.0");
  EXPECT_EQ(reader.manifest().at("files").at("a.txt").at("bytes"), 7);
  // XXH3-128 of nothing, as the algorithm's specification gives it.
  EXPECT_EQ(reader.manifest().at("files").at("b").at("xxh3_128"), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(read_text_file(reader.file("a.txt")), "step 12");
  EXPECT_TRUE(reader.has("b"));
  EXPECT_FALSE(reader.has("manifest.json"));
  expect_error(ExitCode::input, "the checkpoint must hold c, got none", [&] { reader.file("c"); });
}

TEST(CheckpointFolder, IsAbsentUntilItIsFinished) {
  const TemporaryFolder run;
  {
    CheckpointWriter writer(run.path(), 3);
    write_file_durably(writer.file("a"), "x");
    EXPECT_FALSE(newest_step_folder(run.path()));
    EXPECT_THAT(names(run.path()), ElementsAre(testing::StartsWith(".step-3.tmp-")));
  }
  EXPECT_THAT(names(run.path()), IsEmpty());
}

TEST(CheckpointFolder, AFlipOfAnyBitOfAnyByteIsFound) {
  const TemporaryFolder run;
  {
    CheckpointWriter writer(run.path(), 1);
    const std::string data = "rows of a table!";
    write_safetensors(writer.file("model.safetensors"),
                      {{"t", DType::U8, {16}, std::as_bytes(std::span(data.data(), data.size()))}}, {{"k", "v"}});
    write_file_durably(writer.file("tokenizer.model"), "pieces");
    writer.finish({{"seed", 1}, {"rate", 0.5}}, 0);
  }
  const fs::path folder = run / "step-1";
  ASSERT_EQ(open_error(folder), "");
  for (const std::string& name : names(folder)) {
    const std::string good = read_text_file(folder / name);
    const bool every_bit = good.size() < 4096;
    for (size_t at = 0; at < good.size(); ++at) {
      for (size_t bit = every_bit ? 0 : at % 8; bit < (every_bit ? 8 : at % 8 + 1); ++bit) {
        set_byte(folder / name, at, static_cast<char>(good[at] ^ (1 << bit)));
        ASSERT_THAT(open_error(folder), testing::HasSubstr(name)) << "byte " << at << " bit " << bit;
      }
      set_byte(folder / name, at, good[at]);
    }
  }
  EXPECT_EQ(open_error(folder), "");
}

TEST(CheckpointFolder, EveryTruncationIsFound) {
  const TemporaryFolder run;
  write_checkpoint(run.path(), 1);
  const fs::path folder = run / "step-1";
  for (const std::string name : {"a.txt", "manifest.json"}) {
    const std::string good = read_text_file(folder / name);
    for (size_t size = 0; size < good.size(); ++size) {
      overwrite(folder / name, good.substr(0, size));
      EXPECT_THAT(open_error(folder), testing::HasSubstr(name)) << size;
    }
    overwrite(folder / name, good + "x");
    EXPECT_THAT(open_error(folder), testing::HasSubstr(name));
    overwrite(folder / name, good);
  }
  EXPECT_EQ(open_error(folder), "");
}

TEST(CheckpointFolder, WhatIsNoCheckpointGetsOneLine) {
  const TemporaryFolder run;
  write_checkpoint(run.path(), 1);
  const fs::path folder = run / "step-1";
  const std::string manifest = read_text_file(folder / "manifest.json");
  fs::remove(folder / "b");
  EXPECT_THAT(open_error(folder), testing::HasSubstr("b: the file must be readable, got No such file"));
  fs::create_directory(folder / "b");
  EXPECT_THAT(open_error(folder), testing::HasSubstr("b: the path must be a regular file, got a folder"));
  fs::remove(folder / "manifest.json");
  EXPECT_THAT(open_error(folder), testing::HasSubstr("a checkpoint must have a manifest, got No such file"));
  EXPECT_THAT(open_error(run / "no"), testing::HasSubstr("a checkpoint must have a manifest, got No such file"));
  for (const std::string foreign :
       {"", "{}", "{\"model\": \"another program's, long enough for any sum at its end\"}\n"}) {
    overwrite(folder / "manifest.json", foreign);
    EXPECT_THAT(open_error(folder), testing::HasSubstr("the manifest must be whole")) << foreign;
  }
  overwrite(folder / "manifest.json", manifest.substr(0, manifest.rfind(',')) + "\n}\n");  // JSON, but without its sum
  EXPECT_THAT(open_error(folder), testing::HasSubstr("the manifest must be whole"));
}

TEST(CheckpointFolder, WhatIsMadeOfAManifestNamesIt) {
  const TemporaryFolder run;
  write_checkpoint(run.path(), 1);
  const fs::path file = run / "step-1/manifest.json";
  std::string before = "\"step\": 1";
  for (const std::string step : {"-1", "1e+300", "1.5", "\"x\""}) {
    std::string body = read_text_file(file);
    body.resize(body.rfind(",\n  \"sum\""));
    body.replace(body.find(before), before.size(), "\"step\": " + step);
    before = "\"step\": " + step;
    const std::string sum = checksum(std::as_bytes(std::span(body)));
    overwrite(file, body + ",\n  \"sum\": \"" + sum + "\"\n}\n");
    EXPECT_EQ(open_error(run / "step-1"), file.string() + ": the step must be a whole number from 0 on, got " + step);
  }
  write_checkpoint(run.path(), 2);
  const CheckpointReader reader(run / "step-2");
  expect_error(ExitCode::input, "step-2/manifest.json: the manifest must name a base, got ", [&] {
    reader.read("the manifest must name a base", [](const nlohmann::json& manifest) { return manifest.at("base"); });
  });
}

TEST(CheckpointFolder, SumsOfLargeFilesMayBeSkippedButSizesAreNot) {
  const TemporaryFolder run;
  write_checkpoint(run.path(), 1);
  overwrite(run / "step-1/a.txt", "step X");  // 6 bytes, as before
  EXPECT_NO_THROW(CheckpointReader(run / "step-1", 5));
  EXPECT_THROW(CheckpointReader(run / "step-1", 6), Error);
  overwrite(run / "step-1/a.txt", "step X!");
  EXPECT_THROW(CheckpointReader(run / "step-1", 0), Error);
}

TEST(CheckpointFolder, FilesOfAnEarlierOneGoIntoTheNextAsTheyAre) {
  const TemporaryFolder run;
  CheckpointFiles first;
  {
    CheckpointWriter writer(run.path(), 1);
    write_file_durably(writer.file("a"), "large");
    write_file_durably(writer.file("b"), "other");
    first = writer.finish({{"seed", 1}}, 0);
  }
  EXPECT_EQ(first.folder, run / "step-1");
  CheckpointWriter writer(run.path(), 2);
  EXPECT_FALSE(writer.link(first, {"a", "none"}));
  EXPECT_FALSE(fs::exists(writer.file("a")));
  EXPECT_TRUE(writer.link(first, {"a"}));
  write_file_durably(writer.file("b"), "newer");
  const CheckpointFiles second = writer.finish({}, 1);
  EXPECT_FALSE(fs::exists(run / "step-1"));
  EXPECT_EQ(second.manifest.at("files").at("a"), first.manifest.at("files").at("a"));
  EXPECT_EQ(open_error(run / "step-2"), "");
  EXPECT_EQ(read_text_file(run / "step-2/a"), "large");
  overwrite(run / "step-2/a", "larger");
  EXPECT_FALSE(CheckpointWriter(run.path(), 3).link(second, {"a"}));  // another size: it cannot be trusted
}

TEST(CheckpointFolder, OldOnesGoOnceTheNewOneIsThere) {
  const TemporaryFolder run;
  for (const int64_t step : {1, 2, 10, 9}) write_checkpoint(run.path(), step, 2);
  // After a return to step 9, what the run reaches later stays until it is reached.
  EXPECT_THAT(names(run.path()), ElementsAre("latest", "step-10", "step-2", "step-9"));
  write_checkpoint(run.path(), 11, 2);
  EXPECT_THAT(names(run.path()), ElementsAre("latest", "step-10", "step-11"));
  write_checkpoint(run.path(), 12, 1);
  EXPECT_THAT(names(run.path()), ElementsAre("latest", "step-12"));
}

TEST(CheckpointFolder, ADamagedOneIsReplacedWhenItsStepIsReachedAgain) {
  const TemporaryFolder run;
  write_checkpoint(run.path(), 5);
  overwrite(run / "step-5/a.txt", "damaged");
  write_checkpoint(run.path(), 5);
  EXPECT_EQ(open_error(run / "step-5"), "");
  EXPECT_THAT(names(run.path()), ElementsAre("latest", "step-5"));
}

TEST(CheckpointFolder, TheNewestWholeOneIsOpenedWithANoticeForEachThatIsNot) {
  const TemporaryFolder run;
  for (const int64_t step : {8, 9, 10}) write_checkpoint(run.path(), step);
  fs::create_directory(run / "step-x");
  fs::create_directory(run / "step-011");
  EXPECT_EQ(newest_step_folder(run.path())->filename(), "step-10");
  std::vector<std::string> notices;
  const auto notice = [&notices](const std::string& line) { notices.push_back(line); };
  EXPECT_EQ(open_latest(run.path(), notice).step(), 10);
  EXPECT_THAT(notices, IsEmpty());
  overwrite(run / "step-10/a.txt", "?");
  fs::remove(run / "step-9/manifest.json");
  EXPECT_EQ(open_latest(run.path(), notice).step(), 8);
  EXPECT_THAT(notices, ElementsAre(testing::HasSubstr("step-10 is damaged and left out: "),
                                   testing::HasSubstr("step-9 is damaged and left out: ")));
  fs::remove(run / "step-8/b");
  expect_error(ExitCode::input, "step-10/a.txt: the file must have the 7 bytes",
               [&] { open_latest(run.path(), notice); });
  const TemporaryFolder empty;
  expect_error(ExitCode::input, "the run must have a complete checkpoint, got none",
               [&] { open_latest(empty.path(), notice); });
  expect_error(ExitCode::input, "No such file", [&] { open_latest(empty / "none", notice); });
}

TEST(CheckpointFolder, LeftoversOfAKilledProcessAreCleared) {
  const TemporaryFolder run;
  write_checkpoint(run.path(), 4);
  fs::rename(run / "step-4", run / ".step-4.replaced");  // killed between the two renames
  fs::create_directory(run / ".step-5.tmp-123");
  overwrite(run / ".step-5.tmp-123/a", "half");
  overwrite(run / ".latest.tmp-123", "half");
  overwrite(run / "notes.txt", "mine");
  remove_leftovers(run.path());
  EXPECT_THAT(names(run.path()), ElementsAre("latest", "notes.txt", "step-4"));
  EXPECT_EQ(open_error(run / "step-4"), "");
  fs::create_directory(run / ".step-4.replaced");
  remove_leftovers(run.path());
  EXPECT_THAT(names(run.path()), ElementsAre("latest", "notes.txt", "step-4"));
}

TEST(CheckpointFolder, AFullDiskLeavesTheLastCheckpoint) {
  const TemporaryFolder folder;
  const fs::path disk = folder / "disk";
  fs::create_directory(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=256k") != 0)
    GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  write_checkpoint(disk, 1, 1);
  expect_error(ExitCode::resources, "No space left", [&] {
    CheckpointWriter writer(disk, 2);
    write_file_durably(writer.file("a"), std::string(1 << 20, 'x'));
    writer.finish({}, 1);
  });
  EXPECT_THAT(names(disk), ElementsAre("latest", "step-1"));
  EXPECT_EQ(open_latest(disk, nullptr).step(), 1);
  umount(disk.c_str());
}

// A child writes checkpoints, telling of each file; the parent kills it after a random number of them.
TEST(CheckpointFolder, AKillAtAnyMomentLeavesAWholeCheckpoint) {
  const TemporaryFolder run;
  write_checkpoint(run.path(), 0);
  int64_t reached = 0;
  for (uint64_t round = 0; round < 20; ++round) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int64_t step = reached + 1;; ++step) {
        CheckpointWriter writer(run.path(), step);
        for (const char* name : {"a", "b", "c"}) {
          write_file_durably(writer.file(name), std::string(100000, *name));
          if (write(ends[1], name, 1) != 1) _exit(1);
        }
        writer.finish({}, 2);
        if (write(ends[1], "!", 1) != 1) _exit(1);
      }
    }
    char told = 0;
    for (uint64_t left = 1 + CounterRandom(1, "kill").below(round, 12); left > 0; --left) {
      ASSERT_EQ(::read(ends[0], &told, 1), 1);
    }
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    close(ends[0]);
    close(ends[1]);
    remove_leftovers(run.path());
    std::vector<std::string> notices;
    const CheckpointReader reader = open_latest(run.path(), [&](const std::string& line) { notices.push_back(line); });
    EXPECT_THAT(notices, IsEmpty());
    EXPECT_GE(reader.step(), reached);
    reached = reader.step();
  }
  EXPECT_GT(reached, 0);
}

TEST(CheckpointFolder, ExtraMembersDoNotHideTheManifestsOwn) {
  const TemporaryFolder run;
  for (const std::string key : {"step", "files", "format", "sum"}) {
    expect_error(ExitCode::bug, "other names than the manifest's, got " + key,
                 [&] { CheckpointWriter(run.path(), 1).finish({{key, 1}}, 0); });
  }
  EXPECT_THAT(names(run.path()), IsEmpty());
}

}  // namespace
}  // namespace loci
