// EXIF: a TIFF block of 12-byte entries in either byte order, of which one is the orientation.
#include <cstring>

#include "loci/data/image/image_codec.h"

namespace loci {
namespace {

constexpr uint32_t kOrientationTag = 0x0112;
constexpr uint32_t kShortType = 3;
constexpr size_t kEntryBytes = 12;

class TiffBlock {
 public:
  explicit TiffBlock(std::span<const uint8_t> bytes) : bytes_(bytes), little_(!bytes.empty() && bytes[0] == 'I') {}

  // 0 for a number that is not wholly in the block.
  uint32_t number(size_t at, size_t size) const {
    if (at > bytes_.size() || size > bytes_.size() - at) return 0;
    uint32_t value = 0;
    for (size_t i = 0; i < size; ++i) value = value << 8 | bytes_[at + (little_ ? size - 1 - i : i)];
    return value;
  }

 private:
  std::span<const uint8_t> bytes_;
  bool little_;
};

}  // namespace

int exif_orientation(std::span<const uint8_t> bytes) {
  if (bytes.size() < 8 || (std::memcmp(bytes.data(), "II*\0", 4) != 0 && std::memcmp(bytes.data(), "MM\0*", 4) != 0)) {
    return 1;
  }
  const TiffBlock tiff(bytes);
  const size_t directory = tiff.number(4, 4);
  const size_t entries = tiff.number(directory, 2);
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + i * kEntryBytes;
    if (tiff.number(entry, 2) != kOrientationTag || tiff.number(entry + 2, 2) != kShortType) continue;
    const uint32_t value = tiff.number(entry + 8, 2);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace loci
