// Files of finetuned rows behind a command line, for the comparison with Python (python/tests/test_finetuning.py).
//   row_tool background ROWS INPUT OUTPUT        counts the batches [..] int64 of INPUT in the order of their names
//   row_tool unusual BACKGROUND INPUT MOST       prints the unusual rows of the one batch of INPUT
//   row_tool patch NAME BEFORE AFTER OUTPUT      writes the patch between `rows` [N, D] of two files; prints its rows
//   row_tool apply NAME PATCH INPUT OUTPUT       applies a patch to `rows` of INPUT; prints its rows
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "loci/base/check.h"
#include "loci/table/mapped_tensor.h"
#include "loci/table/read_background.h"
#include "loci/table/row_patch.h"
#include "loci/train/tensor_file.h"

namespace {

using at::Tensor;

std::span<const int64_t> numbers_in(const Tensor& index) {
  return {index.const_data_ptr<int64_t>(), static_cast<size_t>(index.numel())};
}

template <class Byte>
loci::RowBytes<Byte> bytes_of(const std::string& name, const Tensor& rows) {
  auto* const data = static_cast<Byte*>(rows.mutable_data_ptr());
  return {name, loci::dtype_of_tensor(rows), rows.size(0), rows.size(1), {data, rows.nbytes()}};
}

Tensor rows_in(const std::string& path) {
  return loci::read_tensors(path).at("rows");
}

bool run(const std::string& verb, const std::vector<std::string>& a) {
  if (verb == "background" && a.size() == 3) {
    loci::ReadBackground background(std::stoll(a[0]));
    for (const auto& [name, index] : loci::read_tensors(a[1])) background.add_batch(numbers_in(index));
    background.save(a[2]);
  } else if (verb == "unusual" && a.size() == 3) {
    const auto batch = loci::read_tensors(a[1]);
    const auto background = loci::ReadBackground::load(a[0]);
    for (const int64_t row : background.unusual_rows(numbers_in(batch.begin()->second), std::stoll(a[2]))) {
      std::printf("%ld\n", static_cast<long>(row));
    }
  } else if (verb == "patch" && a.size() == 4) {
    const Tensor before = rows_in(a[1]), after = rows_in(a[2]);
    const int64_t changed =
        loci::write_row_patch(a[3], bytes_of<const std::byte>(a[0], before), bytes_of<const std::byte>(a[0], after));
    std::printf("%ld\n", static_cast<long>(changed));
  } else if (verb == "apply" && a.size() == 4) {
    const Tensor rows = rows_in(a[2]);
    std::printf("%ld\n", static_cast<long>(loci::apply_row_patch(a[1], bytes_of<std::byte>(a[0], rows))));
    loci::write_tensors(a[3], {{"rows", rows}});
  } else {
    return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc >= 2 && run(argv[1], {argv + 2, argv + argc})) return 0;
  } catch (const loci::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  std::fprintf(stderr, "row_tool background|unusual|patch|apply ...\n");
  return 2;
}
