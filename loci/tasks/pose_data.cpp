// Legend: B images of a batch, C channels.
#include "loci/tasks/pose_data.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <utility>

#include "loci/base/config.h"
#include "loci/data/parallel_items.h"

namespace loci {
namespace {

ImageSet images_at(const ImageSet& images, std::span<const int64_t> frames) {
  const int64_t bytes = images.shape().bytes();
  std::vector<uint8_t> pixels(static_cast<size_t>(std::ssize(frames) * bytes));
  for (size_t i = 0; i < frames.size(); ++i) {
    images.read(frames[i], pixels.data() + static_cast<int64_t>(i) * bytes);
  }
  return ImageSet(images.shape(), std::move(pixels));
}

// What decides the frames, without what only says how much memory they may take.
struct SequenceSettings {
  ImageOptions image;
  PoseSplitOptions split;
  void fields(ConfigFields& f) {
    image.fields(f);
    split.fields(f);
  }
};

// A key is one line.
std::string one_line(std::string text) {
  while (text.ends_with('\n')) text.pop_back();
  for (size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n')) text.replace(at, 1, "; ");
  return text;
}

}  // namespace

void PoseTaskData::fields(ConfigFields& f) {
  f.choice<PoseDataKind>("kind", kind, "a folder of frames with poses.txt, or the procedural room",
                         {{"sequence", PoseDataKind::sequence}, {"room", PoseDataKind::room}});
  f.when(kind == PoseDataKind::sequence, "data.kind is \"sequence\"", [&] {
    image.fields(f);
    split.fields(f);
  });
  f.when(kind == PoseDataKind::room, "data.kind is \"room\"", [&] { room.fields(f); });
}

int64_t PoseTaskData::height() const {
  if (kind == PoseDataKind::room) return room.height;
  return image.size.empty() ? 120 : image.size[0];
}

int64_t PoseTaskData::width() const {
  if (kind == PoseDataKind::room) return room.width;
  return image.size.empty() ? 160 : image.size[1];
}

std::string PoseTaskData::settings() const {
  if (kind == PoseDataKind::room) return Config::write(room);
  return Config::write(SequenceSettings{without_limits(image), split});
}

std::vector<Pose> OpenedPoses::poses_of(std::span<const int64_t> frames) const {
  std::vector<Pose> result;
  for (const int64_t frame : frames) result.push_back(poses[static_cast<size_t>(frame)]);
  return result;
}

at::Tensor OpenedPoses::input(std::span<const int64_t> frames, const ChannelScale& with) const {
  const ImageShape& shape = images.shape();
  const Augment augment(shape, with, {0, false}, 0);
  at::Tensor pixels = at::empty({std::ssize(frames), shape.height, shape.width, shape.channels}, at::kFloat);
  std::vector<uint8_t> bytes(static_cast<size_t>(shape.bytes()));
  for (size_t i = 0; i < frames.size(); ++i) {
    images.read(frames[i], bytes.data());
    augment.plain(bytes.data(), pixels.mutable_data_ptr<float>() + static_cast<int64_t>(i) * shape.bytes());
  }
  return pixels.permute({0, 3, 1, 2});
}

nlohmann::json OpenedPoses::facts() const {
  return {{"training images", split.train.size()},
          {"test images", split.test.size()},
          {"height", images.shape().height},
          {"width", images.shape().width},
          {"channels", images.shape().channels}};
}

std::shared_ptr<const OpenedPoses> open_poses(const PoseTaskData& options, const TaskInputs& inputs) {
  if (auto opened = std::dynamic_pointer_cast<const OpenedPoses>(inputs.opened)) return opened;
  auto opened = std::make_shared<OpenedPoses>();
  if (options.kind == PoseDataKind::room) {
    RoomData room = make_room_data(options.room, *inputs.progress);
    opened->images = std::move(room.images);
    opened->poses = std::move(room.poses);
    opened->paths = std::move(room.path);
    opened->split = std::move(room.split);
    opened->key = "room: " + one_line(options.settings());
  } else {
    PoseSequence sequence = load_pose_sequence(inputs.data, options.image, *inputs.progress);
    for (const std::string& notice : sequence.notices) inputs.progress->finish(notice);
    opened->images = std::move(sequence.images);
    opened->poses = std::move(sequence.poses);
    opened->paths.assign(opened->poses.size(), 0);
    opened->split = split_poses(std::ssize(opened->poses), options.split);
    opened->key = sequence.inventory.key() + "; " + one_line(Config::write(options.split));
  }
  opened->scale = channel_scale(images_at(opened->images, opened->split.train));
  return opened;
}

}  // namespace loci
