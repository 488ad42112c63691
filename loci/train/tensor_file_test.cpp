#include "loci/train/tensor_file.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

#include "loci/base/durable_file.h"
#include "tests/temporary_folder.h"

namespace loci {
namespace {

TEST(TensorFile, CopiesIntoTheStorageThatExists) {
  const TemporaryFolder folder;
  const at::Tensor a = at::rand({100, 50}), b = at::randint(100, {7}, at::kLong);
  write_tensors(folder / "x", {{"a", a}, {"b", b}});
  const at::Tensor c = at::zeros({100, 50}), d = at::zeros({7}, at::kLong);
  const void* before = c.const_data_ptr();
  const int64_t version = c._version();
  load_tensors(folder / "x", {{"a", c}, {"b", d}});
  EXPECT_EQ(c.const_data_ptr(), before);
  EXPECT_GT(c._version(), version);  // a graph that saved it is out of date
  EXPECT_TRUE(c.equal(a));
  EXPECT_TRUE(d.equal(b));
}

TEST(TensorFile, ReadsAllTensorsOfAFile) {
  const TemporaryFolder folder;
  const at::Tensor a = at::rand({3, 5}).to(at::kHalf), b = at::randint(100, {}, at::kLong), none = at::zeros({0, 4});
  write_tensors(folder / "x", {{"a", a}, {"b", b}, {"none", none}});
  const auto read = read_tensors(folder / "x");
  ASSERT_EQ(read.size(), 3u);
  EXPECT_TRUE(read.at("a").equal(a));
  EXPECT_TRUE(read.at("b").equal(b));
  EXPECT_EQ(read.at("none").sizes(), none.sizes());
}

TEST(TensorFile, ChannelsLastTensorsAreRowMajorInTheFileAndKeepTheirStrides) {
  const TemporaryFolder folder;
  const at::Tensor rows = at::rand({2, 3, 4, 5});
  const at::Tensor last = rows.contiguous(at::MemoryFormat::ChannelsLast);
  write_tensors(folder / "rows", {{"w", rows}});
  write_tensors(folder / "last", {{"w", last}});
  EXPECT_EQ(read_text_file(folder / "rows"), read_text_file(folder / "last"));
  const at::Tensor target = at::zeros_like(last);
  const int64_t version = target._version();
  load_tensors(folder / "rows", {{"w", target}});
  EXPECT_TRUE(target.equal(rows));
  EXPECT_TRUE(target.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_GT(target._version(), version);
}

TEST(TensorFile, MissingExtraAndMisshapenTensorsAreRefusedUntouched) {
  const TemporaryFolder folder;
  const at::Tensor a = at::ones({2, 3});
  write_tensors(folder / "x", {{"a", a}});
  const at::Tensor target = at::zeros({2, 3});
  const auto refused = [&](const std::string& part, const NamedTensors& targets) {
    expect_error(ExitCode::input, part, [&] { load_tensors(folder / "x", targets); });
  };
  refused("must hold b", {{"a", target}, {"b", target}});
  refused("every tensor must belong to the model, got a", {});
  refused("a must be F32 [3, 2], got F32 [2, 3]", {{"a", at::zeros({3, 2})}});
  refused("a must be F64 [2, 3]", {{"a", at::zeros({2, 3}, at::kDouble)}});
  EXPECT_EQ(target.sum().item<float>(), 0);
}

}  // namespace
}  // namespace loci
