// torch.classes.loci.ReadBackground: background counts (read_background.h) as an object of Python.
//
//   ReadBackground(rows)
//   add_batch(index); unusual_rows(index, most) -> rows [U] int64     index: int64 of any shape, the reads of a batch
//   batches(); reading_batches() [rows] int32
//   save(path); load(path)                                            load: counts of as many rows, in place of these
#include <ATen/ops/empty.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/table/read_background.h"
#include "loci/table/torch_errors.h"

namespace loci {
namespace {

struct ReadBackgroundObject : torch::CustomClassHolder {
  explicit ReadBackgroundObject(ReadBackground background) : background(std::move(background)) {}
  ReadBackground background;
};

template <class Action>
auto with_reads(const at::Tensor& index, const Action& action) {
  TORCH_CHECK_VALUE(index.scalar_type() == at::kLong, "ReadBackground: index must be int64, got ", index.scalar_type());
  const at::Tensor reads = index.to(at::kCPU).contiguous();
  const auto count = static_cast<size_t>(reads.numel());
  return with_torch_errors([&] { return action(std::span(reads.const_data_ptr<int64_t>(), count)); });
}

void load_background(ReadBackground& background, const std::string& path) {
  ReadBackground loaded = ReadBackground::load(path);
  if (loaded.rows() != background.rows()) {
    fail(ExitCode::input, path, fmt::format("the counts must be of {} rows", background.rows()),
         std::to_string(loaded.rows()));
  }
  background = std::move(loaded);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(loci, m) {
  using Self = const c10::intrusive_ptr<ReadBackgroundObject>&;
  m.class_<ReadBackgroundObject>("ReadBackground")
      .def(torch::init([](int64_t rows) {
        return with_torch_errors([&] { return c10::make_intrusive<ReadBackgroundObject>(ReadBackground(rows)); });
      }))
      .def("add_batch",
           [](Self self, const at::Tensor& index) {
             with_reads(index, [&](std::span<const int64_t> reads) { self->background.add_batch(reads); });
           })
      .def("unusual_rows",
           [](Self self, const at::Tensor& index, int64_t most) {
             const std::vector<int64_t> rows = with_reads(
                 index, [&](std::span<const int64_t> reads) { return self->background.unusual_rows(reads, most); });
             at::Tensor chosen = at::empty({std::ssize(rows)}, at::kLong);
             std::ranges::copy(rows, chosen.mutable_data_ptr<int64_t>());
             return chosen;
           })
      .def("batches", [](Self self) { return self->background.batches(); })
      .def("reading_batches",
           [](Self self) {
             const std::span<const int32_t> counts = self->background.reading_batches();
             at::Tensor copy = at::empty({std::ssize(counts)}, at::kInt);
             std::ranges::copy(counts, copy.mutable_data_ptr<int32_t>());
             return copy;
           })
      .def("save", [](Self self, const std::string& path) { with_torch_errors([&] { self->background.save(path); }); })
      .def("load", [](Self self, const std::string& path) {
        with_torch_errors([&] { load_background(self->background, path); });
      });
}

}  // namespace loci
