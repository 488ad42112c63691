#include "loci/data/poses/pose_sequence.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/base/durable_file.h"
#include "loci/data/folder_files.h"
#include "loci/data/image/image_folder.h"

namespace loci {
namespace {

constexpr double kRotationTolerance = 0.01;  // of the largest entry of |R^T R - 1|
constexpr double kLastRowTolerance = 1e-6;
constexpr size_t kPoseNumbers = 16;
constexpr std::string_view kPoseSpace = " \t\r";
const char* const kPosesFile = "poses.txt";

class PoseLine {
 public:
  PoseLine(std::string_view line, std::string_view who, int64_t number) : who_(who), number_(number) {
    while (true) {
      const size_t begin = std::min(line.find_first_not_of(kPoseSpace), line.size());
      line.remove_prefix(begin);
      if (line.empty()) break;
      const std::string_view word = line.substr(0, line.find_first_of(kPoseSpace));
      line.remove_prefix(word.size());
      add(word);
    }
  }

  bool empty() const { return values_.empty(); }

  Pose pose() const {
    if (values_.size() != kPoseNumbers) refuse("must have 16 numbers", fmt::to_string(values_.size()));
    const auto& v = values_;
    const double bottom = std::abs(v[12]) + std::abs(v[13]) + std::abs(v[14]) + std::abs(v[15] - 1);
    if (!(bottom <= kLastRowTolerance)) {
      refuse("must end in 0 0 0 1", fmt::format("{} {} {} {}", v[12], v[13], v[14], v[15]));
    }
    const Matrix3 m = {v[0], v[1], v[2], v[4], v[5], v[6], v[8], v[9], v[10]};
    const double error = orthogonality_error(m);
    if (!(error <= kRotationTolerance)) {
      refuse(fmt::format("must hold a rotation, R^T R = 1 within {}", kRotationTolerance),
             fmt::format("{:.3g}", error));
    }
    if (const double d = determinant(m); d < 0) {
      refuse("must hold a rotation, of determinant 1", fmt::format("a reflection, of {:.3f}", d));
    }
    return {{v[3], v[7], v[11]}, quaternion_of(nearest_rotation(m))};
  }

 private:
  [[noreturn]] void refuse(std::string_view expected, std::string_view got) const {
    fail(ExitCode::input, who_, fmt::format("line {} {}", number_, expected), got);
  }

  void add(std::string_view word) {
    double value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc() || end != word.data() + word.size() || !std::isfinite(value)) {
      refuse("must have finite numbers", fmt::format("\"{}\"", word.substr(0, 40)));
    }
    values_.push_back(value);
  }

  std::string_view who_;
  int64_t number_;
  std::vector<double> values_;
};

// The frames of the folder itself, by name. With names of different lengths, frame-10 would come before frame-9.
std::vector<ImageSource> frame_sources(const std::filesystem::path& folder, std::vector<std::string>& notices) {
  const FolderFiles found = folder_files(folder);
  std::vector<ImageSource> frames;
  CountedNames other;
  for (const FolderFiles::File& file : found.files) {
    if (file.name.find('/') == std::string::npos && has_extension(file.path, image_extensions())) {
      frames.push_back({file.path, file.name});
    } else if (file.name != kPosesFile) {
      other.add(file.name);
    }
  }
  for (const ImageSource& frame : frames) {
    if (frame.name.size() == frames.front().name.size()) continue;
    fail(ExitCode::input, folder.string(), "names of frames must have one length, so that their order is clear",
         fmt::format("{} and {}", frames.front().name, frame.name));
  }
  if (other.count > 0) {
    notices.push_back(fmt::format("left out, no frame: {} ({})", other.count, other.text()));
  }
  return frames;
}

}  // namespace

std::vector<Pose> parse_poses(std::string_view text, std::string_view who) {
  std::vector<Pose> poses;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const PoseLine line(text.substr(0, end), who, number);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!line.empty()) poses.push_back(line.pose());
  }
  if (poses.empty()) fail(ExitCode::input, who, "there must be a pose", "none");
  return poses;
}

PoseSequence load_pose_sequence(const std::filesystem::path& folder, const ImageOptions& options,
                                ProgressLine& progress) {
  PoseSequence result;
  const std::filesystem::path poses_file = folder / kPosesFile;
  const std::string text = read_text_file(poses_file);
  result.poses = parse_poses(text, poses_file.string());
  std::vector<ImageSource> frames = frame_sources(folder, result.notices);
  if (frames.size() != result.poses.size()) {
    fail(ExitCode::input, folder.string(),
         fmt::format("there must be an image for each of the {} poses in {}", result.poses.size(), kPosesFile),
         fmt::to_string(frames.size()));
  }
  ImageLoader loader(options, progress);
  result.images = loader.load(std::move(frames));
  result.inventory = {image_settings({.image = options}), loader.files()};
  result.inventory.files.push_back({kPosesFile, text.size(), checksum(std::as_bytes(std::span(text)))});
  std::ranges::sort(result.inventory.files, {}, &FileInventory::File::name);
  return result;
}

void PoseSplitOptions::fields(ConfigFields& f) {
  f.field("test_blocks", test_blocks, "frames to test with: first, last, first, last ...; empty: from 70 % to 85 %",
          {.minimum = 0});
  f.field("margin", margin, "frames on each side of a test block that are not trained on", {.minimum = 0});
}

PoseSplit split_poses(int64_t frames, const PoseSplitOptions& options) {
  std::vector<int64_t> blocks = options.test_blocks;
  if (blocks.empty()) blocks = {frames * 70 / 100, frames * 85 / 100 - 1};
  bool ascending = blocks.size() % 2 == 0 && blocks.front() >= 0 && blocks.back() < frames;
  for (size_t i = 1; i < blocks.size(); ++i) {
    ascending = ascending && (i % 2 == 1 ? blocks[i - 1] <= blocks[i] : blocks[i - 1] < blocks[i]);
  }
  if (!ascending) {
    fail(ExitCode::usage, "test_blocks",
         fmt::format("they must be ascending pairs first, last of the frames 0 .. {}", frames - 1),
         fmt::format("{}", fmt::join(blocks, ", ")));
  }
  PoseSplit split;
  for (int64_t frame = 0; frame < frames; ++frame) {
    bool test = false, near = false;
    for (size_t i = 0; i < blocks.size(); i += 2) {
      test = test || (frame >= blocks[i] && frame <= blocks[i + 1]);
      // Differences of frames: a sum with the margin could overflow.
      near = near || (blocks[i] - frame <= options.margin && frame - blocks[i + 1] <= options.margin);
    }
    if (test) split.test.push_back(frame);
    if (!near) split.train.push_back(frame);
  }
  if (split.train.empty()) {
    fail(ExitCode::usage, "test_blocks", "they must leave frames to train on",
         fmt::format("none of {} with a margin of {}", frames, options.margin));
  }
  return split;
}

}  // namespace loci
