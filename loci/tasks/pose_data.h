// The data of relocalisation: a camera's frames with poses, from a folder or from the procedural room; batches.
//
// Legend: B images of a batch, C channels.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "loci/data/image/augment.h"
#include "loci/data/image/image_set.h"
#include "loci/data/poses/pose_sequence.h"
#include "loci/data/procedural/room_data.h"
#include "loci/train/task.h"

namespace loci {

enum class PoseDataKind { sequence, room };

// [data]
struct PoseTaskData {
  PoseDataKind kind = PoseDataKind::sequence;
  ImageOptions image;      // sequence
  PoseSplitOptions split;  // sequence
  RoomDataOptions room;
  void fields(ConfigFields& f);

  int64_t channels() const { return kind == PoseDataKind::sequence && image.color == ImageColor::grey ? 1 : 3; }
  // Height and width that sizes are estimated with; of a sequence without data.size those of 7-Scenes' quarter.
  int64_t height() const;
  int64_t width() const;
  // Those that decide what is read, as text.
  std::string settings() const;
};

struct OpenedPoses : OpenedData {
  ImageSet images;
  std::vector<Pose> poses;     // of each image
  std::vector<int64_t> paths;  // of each image
  PoseSplit split;
  ChannelScale scale;  // of the training images
  std::string key;

  std::vector<Pose> poses_of(std::span<const int64_t> frames) const;
  // The frames [B, C, height, width] as the network's input, channels last.
  at::Tensor input(std::span<const int64_t> frames, const ChannelScale& with) const;
  nlohmann::json facts() const;
};

std::shared_ptr<const OpenedPoses> open_poses(const PoseTaskData& options, const TaskInputs& inputs);

}  // namespace loci
