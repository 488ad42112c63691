// Legend: L frames of a clip, T frames that it is resampled to, J joints.
#include "loci/data/video/skeleton_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <span>
#include <string_view>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/data/class_names.h"
#include "loci/data/input_file.h"

namespace loci {
namespace {

constexpr size_t kSkeletonColumns = 3;  // clip, label, frame

struct NamedSkeleton {
  std::string label;
  SkeletonClip clip;
};

std::vector<std::string_view> split_at(std::string_view text, char mark) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(mark);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

// Subtracts each frame's centroid and divides by the mean height of the body.
void normalise_skeleton(SkeletonClip& clip, int64_t J, const std::string& where) {
  double heights = 0;
  for (int64_t t = 0; t < clip.frames; ++t) {
    const std::span frame(clip.joints.data() + t * J * 2, static_cast<size_t>(J * 2));
    float low = frame[1], high = frame[1];
    double centre[2] = {0, 0};
    for (size_t i = 0; i < frame.size(); ++i) {
      centre[i % 2] += frame[i];
      if (i % 2 == 0) continue;
      low = std::min(low, frame[i]);
      high = std::max(high, frame[i]);
    }
    heights += static_cast<double>(high) - static_cast<double>(low);
    for (size_t i = 0; i < frame.size(); ++i) {
      frame[i] = static_cast<float>(frame[i] - centre[i % 2] / static_cast<double>(J));
    }
  }
  const double height = heights / static_cast<double>(clip.frames);
  if (!(height > 0)) fail(ExitCode::input, where, "a skeleton must have a height", fmt::to_string(height));
  for (float& value : clip.joints) value = static_cast<float>(value / height);
}

class SkeletonReader {
 public:
  explicit SkeletonReader(const std::filesystem::path& path) : who_(path.string()) {
    const InputFile input(path);
    text_ = input.read(0, input.size());
  }

  std::vector<NamedSkeleton> read() {
    std::string_view rest = text_;
    while (!rest.empty()) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      ++number_;
      if (number_ == 1) {
        read_head(split_at(line, ','));
      } else {
        read_frame(split_at(line, ','));
      }
    }
    if (clips_.empty()) fail(ExitCode::input, who_, "the file must hold frames of clips", "none");
    for (NamedSkeleton& clip : clips_) normalise_skeleton(clip.clip, joints_, who_);
    return std::move(clips_);
  }

  int64_t joints() const { return joints_; }
  FileInventory::File file(const std::string& name) const {
    return {name, text_.size(), checksum(std::as_bytes(std::span(text_)))};
  }

 private:
  [[noreturn]] void refuse(std::string_view expected, std::string_view got) const {
    fail(ExitCode::input, who_, fmt::format("line {} must {}", number_, expected), got);
  }

  void read_head(const std::vector<std::string_view>& words) {
    const bool known = words.size() > kSkeletonColumns && words[0] == "clip" && words[1] == "label" &&
                       words[2] == "frame" && (words.size() - kSkeletonColumns) % 2 == 0;
    if (!known) {
      refuse("be clip,label,frame,x0,y0,x1,y1,...", fmt::format("{} columns, \"{}\" ...", words.size(), words[0]));
    }
    joints_ = (std::ssize(words) - static_cast<int64_t>(kSkeletonColumns)) / 2;
  }

  void read_frame(const std::vector<std::string_view>& words) {
    const size_t columns = kSkeletonColumns + 2 * static_cast<size_t>(joints_);
    if (words.size() != columns) refuse(fmt::format("have {} columns", columns), fmt::to_string(words.size()));
    if (clips_.empty() || words[0] != name_) begin_clip(words);
    SkeletonClip& clip = clips_.back().clip;
    if (words[1] != clips_.back().label) {
      refuse(fmt::format("have the label {} of its clip", clips_.back().label), fmt::format("\"{}\"", words[1]));
    }
    if (words[2] != fmt::to_string(clip.frames)) {
      refuse(fmt::format("be frame {} of clip {}", clip.frames, name_), fmt::format("\"{}\"", words[2]));
    }
    ++clip.frames;
    for (size_t i = kSkeletonColumns; i < words.size(); ++i) {
      float value = 0;
      const auto [end, error] = std::from_chars(words[i].data(), words[i].data() + words[i].size(), value);
      if (error != std::errc() || end != words[i].data() + words[i].size() || !std::isfinite(value)) {
        refuse("have finite numbers", fmt::format("\"{}\"", words[i].substr(0, 40)));
      }
      clip.joints.push_back(value);
    }
  }

  void begin_clip(const std::vector<std::string_view>& words) {
    if (words[1].empty()) refuse("have a label", "none");
    name_ = words[0];
    clips_.push_back({std::string(words[1]), {}});
  }

  std::string who_, text_;
  int64_t number_ = 0;
  int64_t joints_ = 0;
  std::string_view name_;  // of the last clip
  std::vector<NamedSkeleton> clips_;
};

std::vector<std::string> labels_of(const std::vector<NamedSkeleton>& clips) {
  std::vector<std::string> labels;
  for (const NamedSkeleton& clip : clips) labels.push_back(clip.label);
  std::ranges::sort(labels);
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  return labels;
}

std::vector<SkeletonClip> numbered(std::vector<NamedSkeleton> clips, const std::vector<std::string>& classes) {
  std::vector<SkeletonClip> result;
  for (NamedSkeleton& clip : clips) {
    result.push_back(std::move(clip.clip));
    result.back().label = std::ranges::lower_bound(classes, clip.label) - classes.begin();
  }
  return result;
}

}  // namespace

SkeletonClips load_skeletons(const std::filesystem::path& folder) {
  SkeletonReader train_file(folder / "train.csv"), test_file(folder / "test.csv");
  std::vector<NamedSkeleton> train = train_file.read(), test = test_file.read();
  if (test_file.joints() != train_file.joints()) {
    fail(ExitCode::input, (folder / "test.csv").string(),
         fmt::format("skeletons must have {} joints as those of train.csv", train_file.joints()),
         fmt::to_string(test_file.joints()));
  }
  SkeletonClips result;
  result.classes = labels_of(train);
  check_same_classes(folder, result.classes, labels_of(test), "clips");
  result.joints = train_file.joints();
  result.train = numbered(std::move(train), result.classes);
  result.test = numbered(std::move(test), result.classes);
  result.inventory.files = {test_file.file("test.csv"), train_file.file("train.csv")};
  return result;
}

void resample_skeleton(const SkeletonClip& clip, double begin, double end, int64_t frames, float* output) {
  const int64_t J = std::ssize(clip.joints) / (2 * clip.frames);
  for (int64_t t = 0; t < frames; ++t) {
    const double at = frames == 1 ? (begin + end) / 2
                                  : begin + (end - begin) * static_cast<double>(t) / static_cast<double>(frames - 1);
    const int64_t before = std::clamp<int64_t>(static_cast<int64_t>(at), 0, clip.frames - 1);
    const int64_t after = std::min(before + 1, clip.frames - 1);
    const auto share = static_cast<float>(at - static_cast<double>(before));
    const float *a = clip.joints.data() + before * J * 2, *b = clip.joints.data() + after * J * 2;
    for (int64_t j = 0; j < J; ++j) {
      for (int64_t d = 0; d < 2; ++d) {
        output[(d * frames + t) * J + j] = a[2 * j + d] + share * (b[2 * j + d] - a[2 * j + d]);
      }
    }
  }
}

}  // namespace loci
