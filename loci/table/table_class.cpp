// torch.classes.loci.Table: a table as an object of Python.
//
// Legend: N rows, D width, U rows of a gradient.
//
//   Table(name, rows, width, dtype, home, path, group, first, count, columns)
//       dtype "float32", "bfloat16", "float64" or "int8"; home "memory", "mapped" (files in the folder `path`),
//       "served" (the file `path`); group: of torch.distributed, on whose ranks the rows are, `count` from row `first`
//       here, or with `columns` so many columns of all rows; all ranks make it together. "": all rows are here.
//   values() [N, D] (of rows here); scale() [N] or None            the rows themselves: writing into them changes the
//   table new_use() [2]                                   for read_table and project_table (table_operators.h)
//   gradient() -> ([U], [U, D])                     what backward left, summed
//   trained_rows() [N] or None                      the mask of set_trained_rows
//   apply_patch(path) -> rows                       apply_row_patch (row_patch.h)
// and write_row_patch(path, name, before [N, D], name, after [N, D]) -> rows.
#include "loci/table/table_class.h"

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <type_traits>

#include "loci/distributed/agreement.h"
#include "loci/table/local_table.h"
#include "loci/table/mapped_table.h"
#include "loci/table/mapped_tensor.h"
#include "loci/table/row_patch.h"
#include "loci/table/sharded_table.h"
#include "loci/table/table_operators.h"
#include "loci/table/torch_errors.h"

namespace loci {
namespace {

using at::Tensor;

at::ScalarType dtype_of_word(const std::string& who, const std::string& word) {
  static const std::map<std::string, at::ScalarType> words = {
      {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float64", at::kDouble}, {"int8", at::kChar}};
  const auto found = words.find(word);
  if (found == words.end()) fail(ExitCode::usage, who, "dtype must be float32, bfloat16, float64 or int8", word);
  return found->second;
}

struct Place {
  std::string home, path, group;
  RowRange here;  // rows, or columns
  bool columns = false;
};

TablePtr make_held(const std::string& name, int64_t rows, int64_t width, at::ScalarType type, const Place& place) {
  if (place.home == "memory") return std::make_shared<LocalTable>(name, rows, width, LocalTableOptions{type});
  if (place.home == "mapped") return std::make_shared<MappedTable>(name, rows, width, type, place.path);
  if (place.home == "served") return serve_table(place.path, name, rows, width, type);
  fail(ExitCode::usage, "table " + name, "home must be memory, mapped or served", place.home);
}

std::shared_ptr<RowStore> make_part(const std::string& name, int64_t rows, int64_t width, at::ScalarType type,
                                    const Place& place) {
  const RowRange here = place.columns ? RowRange{0, rows} : place.here;
  const ColumnRange columns = place.columns ? ColumnRange(place.here.first, place.here.count, width) : width;
  if (place.home == "memory") return std::make_shared<LocalRows>(name, here, columns, LocalTableOptions{type});
  if (place.home == "mapped") return std::make_shared<MappedRows>(name, here, columns, type, place.path);
  fail(ExitCode::usage, "table " + name, "home must be memory or mapped for rows on several ranks", place.home);
}

TablePtr make_sharded(const std::string& name, int64_t rows, int64_t width, at::ScalarType type, const Place& place) {
  const Ranks ranks = ranks_of(place.group);
  std::shared_ptr<RowStore> here;
  together(ranks, [&] { here = make_part(name, rows, width, type, place); });
  return std::make_shared<ShardedTable>(ranks, here);
}

TablePtr make_table(const std::string& name, int64_t rows, int64_t width, const std::string& dtype,
                    const Place& place) {
  const std::string who = "table " + name;
  if (rows < 1) fail(ExitCode::usage, who, "rows must be at least 1", std::to_string(rows));
  if (width < 1) fail(ExitCode::usage, who, "width must be at least 1", std::to_string(width));
  const at::ScalarType type = dtype_of_word(who, dtype);
  checked_product(who, "rows times width", rows, width);
  return place.group.empty() ? make_held(name, rows, width, type, place) : make_sharded(name, rows, width, type, place);
}

// The rows of a table as bytes, for patches.
template <class Byte>
RowBytes<Byte> row_bytes_of(const std::string& name, const Tensor& rows) {
  TORCH_CHECK_VALUE(rows.dim() == 2 && rows.is_floating_point(), "row patch: rows of ", name,
                    " must be [N, D] of a floating type, got ", rows.scalar_type(), " ", rows.sizes());
  TORCH_CHECK_VALUE(rows.is_cpu() && rows.is_contiguous(), "row patch: rows of ", name,
                    " must be on cpu and contiguous, got ", rows.device(), " with strides ", rows.strides());
  Byte* data = nullptr;
  if constexpr (std::is_const_v<Byte>) {
    data = static_cast<Byte*>(rows.const_data_ptr());
  } else {
    data = static_cast<Byte*>(rows.mutable_data_ptr());
  }
  return {name, dtype_of_tensor(rows), rows.size(0), rows.size(1), {data, rows.nbytes()}};
}

int64_t apply_patch(RowStore& store, const std::string& path) {
  int64_t changed = 0;
  store.write_all([&] { changed = apply_row_patch(path, row_bytes_of<std::byte>(store.name(), store.values())); });
  return changed;
}

c10::intrusive_ptr<TableObject> new_table(const std::string& name, int64_t rows, int64_t width,
                                          const std::string& dtype, const std::string& home, const std::string& path,
                                          const std::string& group, int64_t first, int64_t count, bool columns) {
  return with_torch_errors([&] {
    return c10::make_intrusive<TableObject>(
        make_table(name, rows, width, dtype, {home, path, group, {first, count}, columns}));
  });
}

}  // namespace

void register_table_class() {
  using Self = const c10::intrusive_ptr<TableObject>&;
  static const auto registered =
      torch::class_<TableObject>("loci", "Table")
          .def(torch::init(new_table))
          .def("values", [](Self self) { return self->table->store().values(); })
          .def("scale", [](Self self) { return self->table->store().scale(); })
          .def("new_use", [](Self self) { return use_of_table(*self->table); })
          .def("initialise_normal",
               [](Self self, int64_t seed, double std) {
                 with_torch_errors([&] { self->table->store().initialise_normal(static_cast<uint64_t>(seed), std); });
               })
          .def("initialise_zero", [](Self self) { with_torch_errors([&] { self->table->store().initialise_zero(); }); })
          .def("set_rows",
               [](Self self, int64_t first, const Tensor& rows) {
                 with_torch_errors([&] { self->table->store().set_rows(first, rows); });
               })
          .def("prefetch",
               [](Self self, const Tensor& rows) { with_torch_errors([&] { self->table->prefetch(rows); }); })
          .def("set_frozen", [](Self self, bool frozen) { self->table->set_frozen(frozen); })
          .def("frozen", [](Self self) { return self->table->frozen(); })
          .def("set_trained_rows",
               [](Self self, const std::optional<Tensor>& mask) {
                 with_torch_errors([&] { self->table->set_trained_rows(mask.value_or(Tensor())); });
               })
          .def("trained_rows",
               [](Self self) -> std::optional<Tensor> {
                 const Tensor mask = self->table->store().references().trained_rows();
                 return mask.defined() ? std::optional(mask) : std::nullopt;
               })
          .def("apply_patch",
               [](Self self, const std::string& path) {
                 return with_torch_errors([&] { return apply_patch(self->table->store(), path); });
               })
          .def("has_gradient", [](Self self) { return !self->table->store().references().empty(); })
          .def("gradient",
               [](Self self) {
                 const RowGradient sum = self->table->store().references().sum();
                 return std::make_tuple(sum.row, sum.gradient);
               })
          .def("clear_gradient", [](Self self) { self->table->store().references().clear(); });
  (void)registered;
}

TORCH_LIBRARY_FRAGMENT(loci, m) {
  register_table_class();
  m.def("write_row_patch(str path, str name_before, Tensor before, str name_after, Tensor after) -> int",
        [](const std::string& path, const std::string& name_before, const Tensor& before, const std::string& name_after,
           const Tensor& after) {
          return with_torch_errors([&] {
            return write_row_patch(path, row_bytes_of<const std::byte>(name_before, before),
                                   row_bytes_of<const std::byte>(name_after, after));
          });
        });
}

}  // namespace loci
