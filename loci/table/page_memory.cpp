#include "loci/table/page_memory.h"

#include <ATen/ops/from_blob.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/progress.h"

namespace loci {
namespace {

constexpr int64_t kHugePageBytes = int64_t{2} << 20;

[[noreturn]] void refuse_pages(std::string_view who, int64_t bytes, const std::string& got) {
  fail(ExitCode::resources, who, fmt::format("{} of memory must be available", format_bytes(double(bytes))), got);
}

}  // namespace

at::Tensor zero_pages(std::string_view who, int64_t rows, int64_t width, at::ScalarType dtype, PageSize page) {
  const int64_t elements = checked_product(who, "rows x width", rows, std::max<int64_t>(width, 1));
  const int64_t bytes = checked_product(who, "bytes", elements, static_cast<int64_t>(c10::elementSize(dtype)));
  const int64_t available = available_bytes();
  if (bytes > available) refuse_pages(who, bytes, format_bytes(double(available)));

  // Mapped with one huge page to spare, so that the tensor can start on a huge page's boundary.
  const int64_t length = checked_sum(who, "bytes", bytes, 2 * kHugePageBytes) / kHugePageBytes * kHugePageBytes;
  void* base = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) refuse_pages(who, bytes, strerror(errno));
  const auto address = (reinterpret_cast<uintptr_t>(base) + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  // Advice only: a system without huge pages gives small ones.
  madvise(reinterpret_cast<void*>(address), length - kHugePageBytes,
          page == PageSize::huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);

  const auto unmap = [base, length](void*) { munmap(base, length); };
  const std::vector<int64_t> sizes = width == 0 ? std::vector<int64_t>{rows} : std::vector<int64_t>{rows, width};
  return at::from_blob(reinterpret_cast<void*>(address), sizes, unmap, at::TensorOptions().dtype(dtype));
}

void return_pages(const at::Tensor& tensor) {
  // The mapping ends on a page's end, so that madvise may round the length up.
  TORCH_CHECK(madvise(tensor.mutable_data_ptr(), tensor.nbytes(), MADV_DONTNEED) == 0,
              "return_pages: tensor must come from zero_pages, got ", strerror(errno));
  tensor.unsafeGetTensorImpl()->bump_version();
}

}  // namespace loci
