// Legend: n blocks of a stage.
#include "loci/models/resnet_options.h"

#include <string>

#include "loci/base/check.h"

namespace loci {
namespace {

constexpr int64_t kKernel = 9;  // 3x3

[[noreturn]] void refuse_resnet(const std::string& expected, const std::string& got) {
  fail(ExitCode::usage, "model", expected, got);
}

int64_t times(int64_t a, int64_t b) {
  return checked_product("model", "its size", a, b);
}

int64_t plus(int64_t a, int64_t b) {
  return checked_sum("model", "its size", a, b);
}

// Residual blocks of a stage before a memory replaces some.
int64_t planned_blocks(const ResnetOptions& options, size_t stage) {
  return (options.depth - 2) / 6 + options.extra_blocks[stage];
}

// A stage as products see it: each of its positions costs `weights` multiply-adds in convolutions, but the first
// block's first convolution has fewer inputs.
struct StageWeights {
  int64_t first = 0;   // of the first block's first convolution
  int64_t others = 0;  // of all others together
  int64_t norms = 0;   // parameters
  int64_t all() const { return plus(first, others); }
};

StageWeights stage_weights(const ResnetOptions& o, int64_t stage) {
  const int64_t channels = o.stage_channels(stage), inputs = stage == 0 ? channels : channels / 2;
  const int64_t blocks = o.blocks()[static_cast<size_t>(stage)];
  int64_t others = 2 * blocks - 1;
  if (o.has_memory && o.memory.placement == ResnetPlacement::replace3x3 && o.memory.stage == stage + 1) --others;
  return {kKernel * inputs * channels, times(kKernel * channels * channels, others), times(4 * channels, blocks)};
}

bool has_output_map(const ResnetMemoryOptions& m) {
  return m.placement != ResnetPlacement::replace3x3;
}

// Of one position, with the map after the rows.
int64_t memory_multiply_adds(const ResnetMemoryOptions& m, int64_t channels) {
  return plus(m.multiply_adds(channels, channels), has_output_map(m) ? channels * channels : 0);
}

void check_resnet_memory(const ResnetOptions& o) {
  const ResnetMemoryOptions& m = o.memory;
  if (m.stage < 1 || m.stage > ResnetOptions::kStages) {
    refuse_resnet(fmt::format("memory.stage must be within 1 .. {}", ResnetOptions::kStages), std::to_string(m.stage));
  }
  const int64_t blocks = planned_blocks(o, static_cast<size_t>(m.stage - 1));
  if (m.placement == ResnetPlacement::replace_block) {
    if (m.blocks < 1 || m.blocks >= blocks) {
      refuse_resnet(fmt::format("memory.blocks must be within 1 .. {} (a stage keeps its first)", blocks - 1),
                    std::to_string(m.blocks));
    }
  } else if (m.block < -blocks || m.block >= blocks) {
    refuse_resnet(fmt::format("memory.block must be within {} .. {}", -blocks, blocks - 1), std::to_string(m.block));
  }
  m.check();
}

void check_resnet_non_local(const ResnetOptions& o) {
  const std::vector<int64_t>& given = o.non_local.blocks;
  const auto counts = o.blocks();
  if (std::ssize(given) != ResnetOptions::kStages) {
    refuse_resnet(fmt::format("non_local.blocks must be {} numbers", ResnetOptions::kStages),
                  std::to_string(given.size()));
  }
  for (size_t stage = 0; stage < counts.size(); ++stage) {
    if (given[stage] < 0 || given[stage] > counts[stage]) {
      refuse_resnet(fmt::format("non_local.blocks of stage {} must be within 0 .. {}", stage + 1, counts[stage]),
                    std::to_string(given[stage]));
    }
    o.non_local_options(static_cast<int64_t>(stage)).check();
  }
}

}  // namespace

void ResnetNonLocalOptions::fields(ConfigFields& f) {
  f.field("blocks", blocks, "non-local blocks of each stage", {.minimum = 0, .maximum = 300});
  NonLocalOptions::fields(f);
}

void ResnetMemoryOptions::fields(ConfigFields& f) {
  using Placement = ResnetPlacement;
  constexpr int64_t most = 1 << 16;
  f.choice<Placement>(
      "placement", placement, "after a block, in place of a block's second convolution, or of a stage's last blocks",
      {{"side", Placement::side}, {"replace3x3", Placement::replace3x3}, {"replace_block", Placement::replace_block}});
  f.field("stage", stage, "stage of the network", {.minimum = 1, .maximum = ResnetOptions::kStages});
  f.when(placement != Placement::replace_block, "model.memory.placement is not \"replace_block\"",
         [&] { f.field("block", block, "block of the stage, from 0; negative numbers count from the end"); });
  f.when(placement == Placement::replace_block, "model.memory.placement is \"replace_block\"", [&] {
    f.field("blocks", blocks, "how many of the stage's last blocks it replaces", {.minimum = 1, .maximum = most});
  });
  MapMemoryOptions::fields(f);
}

void ResnetOptions::fields(ConfigFields& f) {
  f.field("depth", depth, "layers, 6 n + 2: n residual blocks in each of three stages",
          {.minimum = 8, .maximum = 2000});
  f.field("width", width, "channels of the first stage", {.minimum = 1, .maximum = 1024});
  f.field("extra_blocks", extra_blocks, "residual blocks of each stage in addition", {.minimum = 0, .maximum = 300});
  f.optional_section("memory", has_memory, memory);
  f.optional_section("non_local", has_non_local, non_local);
}

std::array<int64_t, ResnetOptions::kStages> ResnetOptions::blocks() const {
  std::array<int64_t, kStages> result = {};
  for (size_t stage = 0; stage < result.size(); ++stage) result[stage] = planned_blocks(*this, stage);
  if (has_memory && memory.placement == ResnetPlacement::replace_block) {
    result[static_cast<size_t>(memory.stage - 1)] -= memory.blocks;
  }
  return result;
}

int64_t ResnetOptions::memory_block() const {
  const int64_t count = blocks()[static_cast<size_t>(memory.stage - 1)];
  if (memory.placement == ResnetPlacement::replace_block) return count - 1;
  return memory.block < 0 ? memory.block + count : memory.block;
}

std::vector<int64_t> ResnetOptions::non_local_after(int64_t stage) const {
  if (!has_non_local) return {};
  const auto at = static_cast<size_t>(stage);
  return non_local_places(blocks()[at], non_local.blocks[at]);
}

NonLocalOptions ResnetOptions::non_local_options(int64_t stage) const {
  NonLocalOptions options = non_local;
  options.channels = stage_channels(stage);
  options.dimensions = 2;
  return options;
}

void check_resnet_options(const ResnetOptions& o) {
  if (o.depth < 8 || (o.depth - 2) % 6 != 0) {
    refuse_resnet("depth must be 6 n + 2 (8, 14, 20, 32, 56 ...)", std::to_string(o.depth));
  }
  if (o.width < 1) refuse_resnet("width must be at least 1", std::to_string(o.width));
  if (o.classes < 0) refuse_resnet("classes must be at least 0", std::to_string(o.classes));
  if (o.channels < 1) refuse_resnet("channels must be at least 1", std::to_string(o.channels));
  if (std::ssize(o.extra_blocks) != ResnetOptions::kStages) {
    refuse_resnet(fmt::format("extra_blocks must be {} numbers", ResnetOptions::kStages),
                  std::to_string(o.extra_blocks.size()));
  }
  if (o.has_memory) check_resnet_memory(o);
  if (o.has_non_local) check_resnet_non_local(o);
}

std::pair<int64_t, int64_t> count_resnet_parameters(const ResnetOptions& o) {
  check_resnet_options(o);
  int64_t dense = plus(times(kKernel * o.channels, o.width), 2 * o.width), table = 0;
  for (int64_t stage = 0; stage < ResnetOptions::kStages; ++stage) {
    const StageWeights weights = stage_weights(o, stage);
    dense = plus(dense, plus(weights.all(), weights.norms));
    const int64_t relating = std::ssize(o.non_local_after(stage));
    if (relating > 0) dense = plus(dense, times(relating, count_non_local_parameters(o.non_local_options(stage))));
  }
  const int64_t features = o.stage_channels(ResnetOptions::kStages - 1);
  dense = plus(dense, times(features + 1, o.classes));
  if (o.has_memory) {
    const int64_t channels = o.stage_channels(o.memory.stage - 1);
    dense = plus(
        dense, plus(o.memory.parameters(channels), has_output_map(o.memory) ? channels * channels + 2 * channels : 0));
    table = times(o.memory.rows, channels);
  }
  return {dense, table};
}

int64_t resnet_multiply_adds(const ResnetOptions& o, int64_t height, int64_t width) {
  check_resnet_options(o);
  int64_t sum = times(times(height, width), kKernel * o.channels * o.width);
  for (int64_t stage = 0; stage < ResnetOptions::kStages; ++stage) {
    if (stage > 0) {
      height = (height + 1) / 2;
      width = (width + 1) / 2;
    }
    int64_t of_position = stage_weights(o, stage).all();
    if (o.has_memory && o.memory.stage == stage + 1) {
      of_position = plus(of_position, memory_multiply_adds(o.memory, o.stage_channels(stage)));
    }
    sum = plus(sum, times(times(height, width), of_position));
    const int64_t relating = std::ssize(o.non_local_after(stage));
    if (relating == 0) continue;
    sum = plus(sum, times(relating, non_local_multiply_adds(o.non_local_options(stage), {1, height, width})));
  }
  return plus(sum, times(o.stage_channels(ResnetOptions::kStages - 1), o.classes));
}

double resnet_kept_numbers(const ResnetOptions& options, int64_t height, int64_t width) {
  double positions = static_cast<double>(height) * static_cast<double>(width);
  double numbers = positions * static_cast<double>(options.channels + 2 * options.width);
  const auto blocks = options.blocks();
  for (int64_t stage = 0; stage < ResnetOptions::kStages; ++stage) {
    if (stage > 0) positions /= 4;
    const auto channels = static_cast<double>(options.stage_channels(stage));
    numbers += positions * 5 * channels * static_cast<double>(blocks[static_cast<size_t>(stage)]);
    // Embeddings, y, and the map before and after the norm; kept weights are no more than the embeddings.
    const auto inner = static_cast<double>(options.non_local_options(stage).inner_width());
    numbers += positions * (8 * inner + 2 * channels) * static_cast<double>(options.non_local_after(stage).size());
  }
  return numbers;
}

}  // namespace loci
