// The residual network's options: fields, checks, counts. The network: resnet.h.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/models/map_memory_options.h"
#include "loci/nn/relation/non_local_options.h"

namespace loci {

// side: after a block, y = x + batch_norm(W_o M(x)); replace3x3: a block's second convolution becomes M;
// replace_block: the last blocks of a stage make room for one side memory.
enum class ResnetPlacement { side, replace3x3, replace_block };

// [model.memory]; rows are as wide as the stage has channels.
struct ResnetMemoryOptions : MapMemoryOptions {
  ResnetPlacement placement = ResnetPlacement::side;
  int64_t stage = 3;   // 1 .. 3
  int64_t block = -1;  // side, replace3x3: of the stage, from 0; negative counts from the end
  int64_t blocks = 1;  // replace_block: how many of the stage's last blocks
  void fields(ConfigFields& f);
};

// [model.non_local]; channels and dimensions are the stage's.
struct ResnetNonLocalOptions : NonLocalOptions {
  std::vector<int64_t> blocks = {0, 0, 1};  // by stage, at non_local_places()
  void fields(ConfigFields& f);
};

// [model]
struct ResnetOptions {
  static constexpr int64_t kStages = 3;
  int64_t depth = 20;    // 6 n + 2: n blocks of two convolutions in each stage, the stem, the linear layer
  int64_t width = 16;    // channels of the first stage; twice and four times as many in the others
  int64_t classes = 0;   // no field: the data has them. 0: no linear layer, the output is the mean of x
  int64_t channels = 3;  // of the images; no field
  std::vector<int64_t> extra_blocks = {0, 0, 0};  // by stage, in addition to n
  bool has_memory = false;
  ResnetMemoryOptions memory;
  bool has_non_local = false;
  ResnetNonLocalOptions non_local;
  void fields(ConfigFields& f);

  int64_t stage_channels(int64_t stage) const { return width << stage; }  // stage from 0
  // Residual blocks by stage, without those that a memory replaces.
  std::array<int64_t, kStages> blocks() const;
  // The block of its stage, from 0, that the memory belongs to.
  int64_t memory_block() const;
  // The residual blocks of a stage, both from 0, that a non-local block follows; the options of these.
  std::vector<int64_t> non_local_after(int64_t stage) const;
  NonLocalOptions non_local_options(int64_t stage) const;
};

// Throws Error (usage) for options that do not fit each other.
void check_resnet_options(const ResnetOptions& options);

// Parameters before anything is allocated: of dense tensors and of the table.
std::pair<int64_t, int64_t> count_resnet_parameters(const ResnetOptions& options);
// Of one image forward: convolutions, the linear layer and of the memory its query, the products with sub-keys, the
// sum of rows and W_o, of non-local blocks all but norms. Norms, sums and the choice of the best sub-keys are not
// counted. Throws Error (usage) for counts beyond int64.
int64_t resnet_multiply_adds(const ResnetOptions& options, int64_t height, int64_t width);
// Numbers that backward keeps of an image, without the memory: outputs of convolutions and norms, each block's sum.
double resnet_kept_numbers(const ResnetOptions& options, int64_t height, int64_t width);

}  // namespace loci
