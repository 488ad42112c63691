// The header of examples/packed_mnist beside the library.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "examples/packed_mnist/packed_network.h"
#include "loci/models/packed_net.h"
#include "loci/train/tensor_file.h"
#include "tests/op_harness.h"
#include "tests/temporary_folder.h"

namespace loci {

// The file of `network` read by the header: the same bits for every image.
inline void expect_scores_of_the_header(const PackedNet& network, const at::Tensor& images,
                                        const at::Tensor& expected) {
  const TemporaryFolder folder;
  NamedTensors tensors;
  for (const auto& buffer : network.named_buffers()) tensors.emplace_back(buffer.key(), buffer.value());
  write_tensors(folder / "model.safetensors", tensors);
  const packed::Network alone((folder / "model.safetensors").string());
  const at::Tensor pixels = ((images + 255) / 2).permute({0, 2, 3, 1}).to(torch::kByte).contiguous();
  for (int64_t i = 0; i < pixels.size(0); ++i) {
    const std::vector<float> scores = alone.scores(pixels[i].const_data_ptr<uint8_t>());
    ASSERT_TRUE(harness::same_bits(torch::tensor(scores), expected[i])) << i;
  }
}

}  // namespace loci
