#include "loci/base/checksum.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "loci/base/mapped_file.h"

namespace loci {
namespace {

// The published test value of XXH3-128 for no bytes, and what `xxhsum -H2` says of three.
TEST(Checksum, IsXxh3Of128BitsInItsCanonicalForm) {
  EXPECT_EQ(checksum(std::span<const std::byte>{}), "99aa06d3014798d86001c324468d497f");
  const std::byte abc[] = {std::byte{'a'}, std::byte{'b'}, std::byte{'c'}};
  EXPECT_EQ(checksum(abc), "06b05ab6733a618578af5f94892f3950");
}

// Files are read in pieces of 16 MiB: one that ends in the third.
TEST(Checksum, OfAFileEqualsThatOfItsBytesAndTellsOneBit) {
  std::vector<std::byte> bytes((size_t{32} << 20) + 5);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 2654435761U >> 24);
  const auto path = std::filesystem::path(testing::TempDir()) / ("loci_checksum_" + std::to_string(getpid()));
  const auto sum_of_file = [&] {
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
    return checksum(MappedFile(path));
  };
  const std::string before = sum_of_file();
  EXPECT_EQ(before, checksum(bytes));
  bytes[size_t{16} << 20] ^= std::byte{1};
  EXPECT_NE(sum_of_file(), before);
  EXPECT_EQ(sum_of_file(), checksum(bytes));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace loci
