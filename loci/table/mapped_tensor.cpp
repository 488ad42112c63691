#include "loci/table/mapped_tensor.h"

#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "loci/base/check.h"
#include "loci/base/paths.h"
#include "loci/base/progress.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::pair<at::ScalarType, DType>, 9> kStoredTypes = {{{at::kFloat, DType::F32},
                                                                           {at::kDouble, DType::F64},
                                                                           {at::kBFloat16, DType::BF16},
                                                                           {at::kHalf, DType::F16},
                                                                           {at::kLong, DType::I64},
                                                                           {at::kInt, DType::I32},
                                                                           {at::kByte, DType::U8},
                                                                           {at::kChar, DType::I8},
                                                                           {at::kBool, DType::BOOL}}};

// Rows are read in random order: reading ahead would fill memory with rows that are not needed.
void advise_random(int descriptor, void* mapping, int64_t bytes) {
  madvise(mapping, static_cast<size_t>(bytes), MADV_RANDOM);
  posix_fadvise(descriptor, 0, 0, POSIX_FADV_RANDOM);
}

// Where the rows [N, ...] of a tensor are in the file that is mapped at `mapping`.
FileRows rows_in_file(int descriptor, std::byte* mapping, const at::Tensor& tensor) {
  const int64_t first = static_cast<const std::byte*>(tensor.const_data_ptr()) - mapping;
  return {descriptor, mapping, first, static_cast<int64_t>(tensor.nbytes()) / std::max<int64_t>(1, tensor.size(0))};
}

// Writes the first bytes of a file. Returns 0 or an error number.
int write_start(int descriptor, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t written = pwrite(descriptor, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (written < 0 && errno != EINTR) return errno;
    if (written > 0) done += static_cast<size_t>(written);
  }
  return 0;
}

}  // namespace

at::ScalarType scalar_type_of(DType dtype, std::string_view who) {
  for (const auto& [type, name] : kStoredTypes) {
    if (name == dtype) return type;
  }
  fail(ExitCode::input, who, "a tensor's type must exist in torch", name_of(dtype));
}

DType dtype_of_scalar(at::ScalarType scalar) {
  for (const auto& [type, name] : kStoredTypes) {
    if (type == scalar) return name;
  }
  fail(ExitCode::bug, "safetensors", "a tensor's type must exist in safetensors", c10::toString(scalar));
}

DType dtype_of_tensor(const at::Tensor& tensor) {
  return dtype_of_scalar(tensor.scalar_type());
}

struct OwnFileTensor::Mapping {
  int descriptor = -1;
  std::byte* begin = nullptr;
  int64_t length = 0, data = 0;  // of the file; where the tensor begins

  ~Mapping() {
    if (begin != nullptr) munmap(begin, static_cast<size_t>(length));
    if (descriptor >= 0) close(descriptor);
  }
};

OwnFileTensor::OwnFileTensor(fs::path file, const std::string& name, const std::vector<int64_t>& shape,
                             at::ScalarType dtype)
    : file_(std::move(file)), mapping_(std::make_shared<Mapping>()) {
  const std::string who = file_.string();
  const std::string start = safetensors_start({{name, dtype_of_scalar(dtype), shape}}, {}, who);
  int64_t bytes = static_cast<int64_t>(c10::elementSize(dtype));
  for (const int64_t size : shape) bytes = checked_product(who, "bytes", bytes, size);
  Mapping& map = *mapping_;
  map.data = static_cast<int64_t>(start.size());
  map.length = checked_sum(who, "bytes", map.data, bytes);

  unlink(file_.c_str());  // another process may still have the old one
  map.descriptor = open(file_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (map.descriptor < 0) fail_path(file_, "the file must be writable", errno);
  int error = EINTR;
  while (error == EINTR) error = posix_fallocate(map.descriptor, 0, map.length);  // a signal may end it early
  if (error == 0) error = write_start(map.descriptor, start);
  if (error != 0) {
    unlink(file_.c_str());
    fail_path(file_, fmt::format("{} of disk must be available", format_bytes(static_cast<double>(map.length))), error);
  }
  void* begin = mmap(nullptr, static_cast<size_t>(map.length), PROT_READ | PROT_WRITE, MAP_SHARED, map.descriptor, 0);
  if (begin == MAP_FAILED) {
    error = errno;
    unlink(file_.c_str());
    fail_path(file_, "the file system must allow shared mappings, for rows that are trained in a file", error);
  }
  map.begin = static_cast<std::byte*>(begin);
  advise_random(map.descriptor, begin, map.length);
  tensor_ = at::from_blob(map.begin + map.data, shape, [held = mapping_](void*) {}, at::TensorOptions().dtype(dtype));
}

void OwnFileTensor::clear() {
  const auto begin = static_cast<off_t>(mapping_->data);
  const auto count = static_cast<off_t>(mapping_->length - mapping_->data);
  if (fallocate(mapping_->descriptor, FALLOC_FL_ZERO_RANGE, begin, count) != 0) {
    std::memset(mapping_->begin + mapping_->data, 0, static_cast<size_t>(count));  // tmpfs has no such range
  }
  tensor_.unsafeGetTensorImpl()->bump_version();
}

FetchCounts OwnFileTensor::fetch(std::span<const int64_t> row, PageUse use) const {
  return fetch_rows(rows_in_file(mapping_->descriptor, mapping_->begin, tensor_), row, use, file_);
}

PrivateFileTensor::PrivateFileTensor(const fs::path& file, const std::string& name) : file_(file) {
  const SafetensorsReader reader(file);
  const SafetensorsEntry* entry = reader.find(name);
  if (entry == nullptr) fail(ExitCode::input, file.string(), fmt::format("the file must hold {}", name), "none");
  const at::ScalarType type = scalar_type_of(entry->dtype, file.string());
  if (entry->begin % size_of(entry->dtype) != 0) {
    fail(ExitCode::input, file.string(), fmt::format("{} must be aligned to be mapped", name),
         fmt::format("byte {}", entry->begin));
  }
  const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_path(file, "the file must be readable", errno);
  descriptor_ = std::shared_ptr<const int>(new int(descriptor), [](const int* held) {
    close(*held);
    delete held;
  });
  struct stat status = {};
  const bool known = fstat(descriptor, &status) == 0;
  // Private: some file systems (FUSE with direct I/O) have no shared mappings. Not writable: pages that could be
  // written would count against the memory that processes may have, however large the file is.
  void* begin = known && status.st_size >= entry->end
                    ? mmap(nullptr, static_cast<size_t>(entry->end), PROT_READ, MAP_PRIVATE, descriptor, 0)
                    : MAP_FAILED;
  const int error = known && status.st_size < entry->end ? EIO : errno;
  if (begin == MAP_FAILED) fail_path(file, "the file must be mappable", error);
  begin_ = static_cast<std::byte*>(begin);
  length_ = entry->end;
  // Of whole pages, and at most 8,192 pieces: the kernel allows a process 65,530 mappings.
  constexpr int64_t least = int64_t{64} << 10;
  piece_ = (std::max(least, length_ / 8192) + least - 1) / least * least;
  writable_.resize(static_cast<size_t>((length_ + piece_ - 1) / piece_));
  advise_random(descriptor, begin, length_);
  const auto unmap = [begin, length = length_](void*) { munmap(begin, static_cast<size_t>(length)); };
  tensor_ = at::from_blob(begin_ + entry->begin, entry->shape, unmap, at::TensorOptions().dtype(type));
}

void PrivateFileTensor::allow_writes(const int64_t* row, int64_t count) {
  const FileRows rows = rows_in_file(*descriptor_, begin_, tensor_);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = rows.first_byte + row[i] * rows.row_bytes;
    for (int64_t piece = begin / piece_; piece * piece_ < begin + rows.row_bytes; ++piece) {
      if (writable_[static_cast<size_t>(piece)]) continue;
      const int64_t size = std::min(piece_, length_ - piece * piece_);
      if (mprotect(begin_ + piece * piece_, static_cast<size_t>(size), PROT_READ | PROT_WRITE) != 0) {
        fail(ExitCode::resources, "mapped rows",
             fmt::format("{} of memory must be available", format_bytes(static_cast<double>(size))), strerror(errno));
      }
      writable_[static_cast<size_t>(piece)] = true;
    }
  }
}

FetchCounts PrivateFileTensor::fetch(std::span<const int64_t> row) const {
  return fetch_rows(rows_in_file(*descriptor_, begin_, tensor_), row, PageUse::read, file_);
}

}  // namespace loci
