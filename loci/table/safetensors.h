// Tensor files in the safetensors format: eight bytes of header size, a JSON header, the tensors one after another.
//
// The reader takes what the Python package takes and is stricter where a file is odd: duplicate names, unknown fields,
// leading space and anything but text in the metadata are refused. It is more lenient in one point: a dtype that it
// does not know is listed by name, with bytes that nothing can check against the shape. Tensors may lie at any offset,
// so a caller copies them out or checks the alignment itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/durable_file.h"
#include "loci/base/mapped_file.h"

namespace loci {

// The format's dtypes by its names (version 0.8 of the Python package), and `unknown` for those of a later version.
enum class DType {
  BOOL,
  F4,
  F6_E2M3,
  F6_E3M2,
  U8,
  I8,
  F8_E4M3,
  F8_E4M3FNUZ,
  F8_E5M2,
  F8_E5M2FNUZ,
  F8_E8M0,
  U16,
  I16,
  F16,
  BF16,
  U32,
  I32,
  F32,
  U64,
  I64,
  F64,
  C64,
  unknown,
};
constexpr int64_t dtype_count = 22;  // without `unknown`

int64_t bits_of(DType dtype);           // of one element; 0: unknown
int64_t size_of(DType dtype);           // bytes of one element; throws Error (bug) for parts of a byte and for unknown
std::string_view name_of(DType dtype);  // "F32"
DType dtype_of(std::string_view name);  // unknown: a name that this version does not know

using SafetensorsMetadata = std::map<std::string, std::string>;

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::F32;
  std::string dtype_name;  // as the file has it
  std::vector<int64_t> shape;
  int64_t begin = 0;  // bytes from the start of the file
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> tensors;  // as they lie in the file, without holes or overlaps
  SafetensorsMetadata metadata;
};

// Reads the header of a file that is in memory; `who` names it in errors. Throws Error (input).
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view who);

class SafetensorsReader {
 public:
  // Maps the file; tensors are read from the disk when they are touched. Throws Error (input).
  explicit SafetensorsReader(const std::filesystem::path& path);

  const std::vector<SafetensorsEntry>& tensors() const { return header_.tensors; }
  const SafetensorsMetadata& metadata() const { return header_.metadata; }
  const SafetensorsEntry* find(std::string_view name) const;  // nullptr: not there
  std::span<const std::byte> bytes(const SafetensorsEntry& entry) const;
  std::span<const std::byte> bytes(std::string_view name) const;  // throws Error (input) when it is not there
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  MappedFile file_;
  SafetensorsHeader header_;
  std::map<std::string, size_t, std::less<>> by_name_;
};

struct SafetensorsTensor {
  std::string name;
  DType dtype = DType::F32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::F32;
  std::vector<int64_t> shape;
};

// What a file of these tensors begins with: header size and header, padded such that the first tensor starts at a
// multiple of 4096: a table that is to be mapped stands first. Equal arguments give equal bytes.
std::string safetensors_start(const std::vector<SafetensorsSpec>& tensors, const SafetensorsMetadata& metadata,
                              std::string_view who);

// Writes a file whose data come piece by piece, in the order of `tensors`, through a DurableFile: absent until
// commit(). Long runs of zeros become holes, which cost no disk. Throws Error.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<SafetensorsSpec>& tensors,
                    const SafetensorsMetadata& metadata = {});
  void append(std::span<const std::byte> bytes);
  void commit();

 private:
  std::filesystem::path path_;
  DurableFile file_;
  int64_t left_ = 0;  // bytes still to come
};

// The same for tensors that are there.
void write_safetensors(const std::filesystem::path& path, const std::vector<SafetensorsTensor>& tensors,
                       const SafetensorsMetadata& metadata = {});

}  // namespace loci
