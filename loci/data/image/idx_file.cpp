#include "loci/data/image/idx_file.h"

#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/base/mapped_file.h"
#include "loci/base/paths.h"

namespace loci {
namespace {

constexpr int64_t kMostIdxSides = 4;
constexpr uint8_t kIdxUnsignedByte = 0x08;
constexpr int64_t kMostGrowth = 1032;  // the largest ratio that deflate can reach

// zlib reads plain files as they are.
class IdxReader {
 public:
  explicit IdxReader(const std::filesystem::path& path) : path_(path) {
    const OpenedFile opened = open_regular_file(path);
    bytes_ = opened.bytes;
    file_ = gzdopen(opened.descriptor, "rb");
    if (file_ == nullptr) {
      close(opened.descriptor);
      fail(ExitCode::resources, path.string(), "there must be memory to read the file", "none");
    }
  }
  ~IdxReader() { gzclose(file_); }
  IdxReader(const IdxReader&) = delete;
  IdxReader& operator=(const IdxReader&) = delete;

  void read(uint8_t* bytes, int64_t count, const char* what) {
    while (count > 0) {
      const int read = gzread(file_, bytes, static_cast<unsigned>(std::min<int64_t>(count, 1 << 20)));
      check_state(read);
      if (read == 0) fail(ExitCode::input, path_.string(), fmt::format("the idx file must hold {}", what), "its end");
      bytes += read;
      count -= read;
    }
  }
  // Reading past the values also makes zlib check the sum at the end of a gzip file.
  void expect_end() {
    uint8_t more = 0;
    const int read = gzread(file_, &more, 1);
    check_state(read);
    if (read != 0) fail(ExitCode::input, path_.string(), "the idx file must end after its values", "more bytes");
  }
  int64_t most_values() const { return gzdirect(file_) ? bytes_ : bytes_ * kMostGrowth; }

 private:
  // A truncated file gives 0 bytes as a whole one does at its end; only gzerror() tells them apart.
  void check_state(int read) const {
    int error = Z_OK;
    const char* message = gzerror(file_, &error);
    if (read >= 0 && (error == Z_OK || error == Z_STREAM_END)) return;
    if (error == Z_ERRNO) fail_path(path_, "the file must be readable", errno);
    fail(ExitCode::input, path_.string(), "the file must be whole gzip data", message);
  }

  std::filesystem::path path_;
  gzFile file_ = nullptr;
  int64_t bytes_ = 0;
};

int64_t big_endian(const uint8_t* bytes) {
  return int64_t{bytes[0]} << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
}

std::filesystem::path idx_path(const std::filesystem::path& folder, const std::string& name) {
  return path_exists(folder / name) ? folder / name : folder / (name + ".gz");
}

struct IdxPart {
  IdxFile images, labels;
};

IdxPart read_idx_part(const std::filesystem::path& folder, const std::string& name, FileInventory& inventory) {
  const std::array paths = {idx_path(folder, name + "-images-idx3-ubyte"),
                            idx_path(folder, name + "-labels-idx1-ubyte")};
  IdxPart part = {read_idx(paths[0]), read_idx(paths[1])};
  for (const auto& path : paths) {
    const MappedFile file(path);
    inventory.files.push_back({path.filename().string(), file.bytes().size(), checksum(file)});
  }
  if (part.images.sides.size() != 3 || part.images.values.empty()) {
    fail(ExitCode::input, paths[0].string(), "there must be images, of 3 sides",
         fmt::format("{} sides and {} values", part.images.sides.size(), part.images.values.size()));
  }
  if (part.labels.sides.size() != 1 || part.labels.sides[0] != part.images.sides[0]) {
    fail(ExitCode::input, paths[1].string(), fmt::format("there must be {} labels, of 1 side", part.images.sides[0]),
         fmt::format("{} of {}", part.labels.values.size(), part.labels.sides.size()));
  }
  return part;
}

ImageSet idx_image_set(IdxFile file, const ImageOptions& options) {
  ImageShape shape = {file.sides[1], file.sides[2], 1};
  const bool grey = options.color == ImageColor::grey;
  if (grey && options.size.empty()) return ImageSet(shape, std::move(file.values));
  std::vector<uint8_t> pixels;
  for (int64_t i = 0; i < file.sides[0]; ++i) {
    const auto begin = file.values.begin() + i * shape.bytes();
    Image image = {shape, {begin, begin + shape.bytes()}};
    if (!options.size.empty()) image = resized(image, options.size[0], options.size[1]);
    for (const uint8_t value : image.pixels) pixels.insert(pixels.end(), grey ? 1 : 3, value);
  }
  if (!options.size.empty()) shape = {options.size[0], options.size[1], 1};
  shape.channels = grey ? 1 : 3;
  return ImageSet(shape, std::move(pixels));
}

}  // namespace

IdxFile read_idx(const std::filesystem::path& path) {
  IdxReader reader(path);
  std::array<uint8_t, 4> start = {};
  reader.read(start.data(), 4, "a header");
  if (start[0] != 0 || start[1] != 0 || start[2] != kIdxUnsignedByte || start[3] < 1 || start[3] > kMostIdxSides) {
    fail(ExitCode::input, path.string(),
         fmt::format("the file must be idx of unsigned bytes, 00 00 08 and 1 to {} sides", kMostIdxSides),
         fmt::format("{:02X} {:02X} {:02X} {:02X}", start[0], start[1], start[2], start[3]));
  }
  IdxFile file;
  int64_t count = 1;
  for (int side = 0; side < start[3]; ++side) {
    std::array<uint8_t, 4> bytes = {};
    reader.read(bytes.data(), 4, "a header");
    file.sides.push_back(big_endian(bytes.data()));
    if (__builtin_mul_overflow(count, file.sides.back(), &count)) count = -1;
    if (count < 0 || count > reader.most_values()) {
      fail(ExitCode::input, path.string(),
           fmt::format("the sides must be of at most {} values, which the file can hold", reader.most_values()),
           count < 0 ? "2^63 or more" : fmt::to_string(count));
    }
  }
  file.values.resize(static_cast<size_t>(count));
  reader.read(file.values.data(), count, fmt::format("{} values", count).c_str());
  reader.expect_end();
  return file;
}

bool is_idx_folder(const std::filesystem::path& folder) {
  return path_exists(idx_path(folder, "train-images-idx3-ubyte"));
}

ImageClasses load_idx_folder(const std::filesystem::path& folder, const ImageFolderOptions& options) {
  check_image_size(options.image);
  ImageClasses result;
  IdxPart train = read_idx_part(folder, "train", result.inventory);
  IdxPart test = read_idx_part(folder, "t10k", result.inventory);
  if (!std::equal(train.images.sides.begin() + 1, train.images.sides.end(), test.images.sides.begin() + 1)) {
    fail(ExitCode::input, folder.string(),
         fmt::format("test images must be {} x {} as those of train", train.images.sides[1], train.images.sides[2]),
         fmt::format("{} x {}", test.images.sides[1], test.images.sides[2]));
  }
  const int64_t classes = *std::max_element(train.labels.values.begin(), train.labels.values.end()) + 1;
  const int64_t most = *std::max_element(test.labels.values.begin(), test.labels.values.end());
  if (most >= classes) {
    fail(ExitCode::input, folder.string(), fmt::format("labels of the test must be below {} as in train", classes),
         fmt::to_string(most));
  }
  for (int64_t label = 0; label < classes; ++label) result.classes.push_back(fmt::to_string(label));
  result.inventory.settings = image_settings(options);
  std::ranges::sort(result.inventory.files, {}, &FileInventory::File::name);
  for (const auto& [part, images] : {std::pair(&train, &result.train), std::pair(&test, &result.test)}) {
    images->labels.assign(part->labels.values.begin(), part->labels.values.end());
    images->images = idx_image_set(std::move(part->images), options.image);
  }
  return result;
}

}  // namespace loci
