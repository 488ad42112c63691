// Legend: N rows, D width, D_p columns of rank p.
#include "loci/train/column_checkpoint.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <optional>
#include <vector>

#include "loci/base/check.h"
#include "loci/distributed/exchange_plan.h"
#include "loci/train/table_parts.h"
#include "loci/train/tensor_file.h"

namespace loci {
namespace {

constexpr int64_t kBlockBytes = int64_t{4} << 20;  // of a rank

// Keeps the first error: a rank goes on with what the others wait for, and throws afterwards.
class Postponed {
 public:
  template <class Action>
  void run(const Action& action) {
    if (error_ != nullptr) return;
    try {
      action();
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  std::exception_ptr error_;
};

// Rows first .. first + count - 1 of `tensor` [N, D_p] of every rank, of which each gets other ones, with all columns.
// part[p]: rows of rank p, width[p]: its columns. Returns [rows of this rank, D] as bytes.
at::Tensor whole_rows(const at::Tensor& tensor, const std::vector<RowRange>& part, const std::vector<int64_t>& first,
                      const Ranks& ranks) {
  const int64_t element = tensor.element_size(), columns = tensor.size(1), mine = part[ranks.rank].count;
  std::vector<at::Tensor> sent;
  std::vector<int64_t> to, from;
  for (size_t p = 0; p < part.size(); ++p) {
    sent.push_back(tensor.detach().narrow(0, part[p].first, part[p].count).reshape({-1}).view(at::kByte));
    to.push_back(part[p].count * columns * element);
    from.push_back(mine * (first[p + 1] - first[p]) * element);
  }
  const at::Tensor came = all_to_all(ranks, at::cat(sent), to, from);
  at::Tensor rows = at::empty({mine, first.back() * element}, at::kByte);
  int64_t at = 0;
  for (size_t p = 0; p < part.size(); at += from[p++]) {
    const int64_t bytes = (first[p + 1] - first[p]) * element;
    rows.narrow(1, first[p] * element, bytes).copy_(came.narrow(0, at, from[p]).view({mine, bytes}));
  }
  return rows;
}

// Where the columns of each rank begin, and the number of all at the end.
std::vector<int64_t> first_columns(const ColumnRange& here, const Ranks& ranks) {
  const std::vector<int64_t> mine = {here.first};
  std::vector<int64_t> first;
  for (const auto& of_rank : swap_numbers(ranks, std::vector(static_cast<size_t>(ranks.size), mine))) {
    first.push_back(of_rank[0]);
  }
  first.push_back(here.all);
  return first;
}

// Writes the rows `own` of tensors [N, D_p] or [N], in blocks, each of which all ranks exchange; an error of this rank
// waits for the end.
void write_whole_rows(Postponed& errors, const std::filesystem::path& path, const NamedTensors& tensors,
                      const std::vector<RowRange>& own, const ColumnRange& columns, const Ranks& ranks) {
  const RowRange& mine = own[static_cast<size_t>(ranks.rank)];
  const bool writes = mine.count > 0;
  std::vector<SafetensorsSpec> specs;
  for (const auto& [name, tensor] : tensors) {
    specs.push_back({name, dtype_of_tensor(tensor), RowSlice(tensor, columns).shape(mine.count)});
  }
  std::optional<SafetensorsWriter> file;
  errors.run([&] {
    if (writes) file.emplace(path, specs);
  });
  const auto append = [&](const at::Tensor& rows) {
    errors.run([&] {
      if (writes) file->append({static_cast<const std::byte*>(rows.const_data_ptr()), rows.nbytes()});
    });
  };
  const std::vector<int64_t> first = first_columns(columns, ranks);
  for (const auto& [name, tensor] : tensors) {
    if (tensor.dim() == 1) {  // every rank has the same
      append(tensor.narrow(0, mine.first, mine.count));
      continue;
    }
    const int64_t row_bytes = columns.all * static_cast<int64_t>(tensor.element_size());
    const int64_t block = std::max<int64_t>(1, kBlockBytes / row_bytes);
    for (int64_t begin = 0; begin < own[0].count; begin += block) {  // rank 0 has as many rows as any
      std::vector<RowRange> part;
      for (const RowRange& of : own) {
        const int64_t skipped = std::min(begin, of.count);
        part.push_back({of.first + skipped, std::min(block, of.count - skipped)});
      }
      append(whole_rows(tensor, part, first, ranks));
    }
  }
  errors.run([&] {
    if (writes) file->commit();
  });
}

}  // namespace

nlohmann::json save_columns(CheckpointPart& writer, const RowOptimizer& optimizer, const RowCounters& counters,
                            const Ranks& ranks) {
  const RowStore& rows = optimizer.rows();
  const std::vector<int64_t> first = equal_parts(rows.rows_here(), ranks.size);
  std::vector<RowRange> own;
  for (size_t p = 0; p + 1 < first.size(); ++p) own.push_back({first[p], first[p + 1] - first[p]});
  const RowRange& mine = own[static_cast<size_t>(ranks.rank)];
  const TablePart part = {base_file(rows.name(), ranks.rank, ranks.size), {}, mine.first, mine.count};
  Postponed errors;
  std::filesystem::path state, base;
  errors.run([&] {
    if (mine.count == 0) return;
    for (const auto& [name, tensor] : counters.tensors) {
      if (tensor.size(0) == mine.count) continue;
      fail(ExitCode::bug, "table " + rows.name(), fmt::format("counters {} must be of {} rows", name, mine.count),
           fmt::to_string(tensor.size(0)));
    }
    state = writer.file(part.beside("optimizer"));
    if (!counters.tensors.empty()) write_tensors(writer.file(part.beside("counters")), counters.tensors);
    base = writer.file(part.base);
  });
  write_whole_rows(errors, state, optimizer.row_state(), own, rows.columns(), ranks);
  write_whole_rows(errors, base, {{rows.name(), rows.values()}}, own, rows.columns(), ranks);
  errors.rethrow();
  return mine.count == 0 ? nlohmann::json() : part.to_json(/*alone=*/false);
}

}  // namespace loci
