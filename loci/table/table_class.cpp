// torch.classes.loci.Table: a table as an object of Python.
//
// Legend: N rows, D width, U rows of a gradient.
//
//   Table(name, rows, width, dtype, home, folder)   dtype "float32", "bfloat16", "float64" or "int8"; home "memory",
//                                                   "mapped" (files in folder)
//   values() [N, D]; scale() [N] or None            the rows themselves: writing into them changes the table
//   new_use() [2]                                   for read_table and project_table (table_operators.h)
//   gradient() -> ([U], [U, D])                     what backward left, summed
#include "loci/table/table_class.h"

#include <filesystem>
#include <map>

#include "loci/table/local_table.h"
#include "loci/table/mapped_table.h"
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

TablePtr make_table(const std::string& name, int64_t rows, int64_t width, const std::string& dtype,
                    const std::string& home, const std::string& folder) {
  const std::string who = "table " + name;
  if (rows < 1) fail(ExitCode::usage, who, "rows must be at least 1", std::to_string(rows));
  if (width < 1) fail(ExitCode::usage, who, "width must be at least 1", std::to_string(width));
  const at::ScalarType type = dtype_of_word(who, dtype);
  checked_product(who, "rows times width", rows, width);
  if (home == "memory") return std::make_shared<LocalTable>(name, rows, width, LocalTableOptions{type});
  if (home == "mapped") return std::make_shared<MappedTable>(name, rows, width, type, folder);
  fail(ExitCode::usage, who, "home must be memory or mapped", home);
}

c10::intrusive_ptr<TableObject> new_table(const std::string& name, int64_t rows, int64_t width,
                                          const std::string& dtype, const std::string& home,
                                          const std::string& folder) {
  return with_torch_errors(
      [&] { return c10::make_intrusive<TableObject>(make_table(name, rows, width, dtype, home, folder)); });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(loci, m) {
  using Self = const c10::intrusive_ptr<TableObject>&;
  m.class_<TableObject>("Table")
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
      .def("prefetch", [](Self self, const Tensor& rows) { with_torch_errors([&] { self->table->prefetch(rows); }); })
      .def("set_frozen", [](Self self, bool frozen) { self->table->set_frozen(frozen); })
      .def("frozen", [](Self self) { return self->table->frozen(); })
      .def("set_trained_rows",
           [](Self self, const std::optional<Tensor>& mask) {
             with_torch_errors([&] { self->table->set_trained_rows(mask.value_or(Tensor())); });
           })
      .def("has_gradient", [](Self self) { return !self->table->store().references().empty(); })
      .def("gradient",
           [](Self self) {
             const RowGradient sum = self->table->store().references().sum();
             return std::make_tuple(sum.row, sum.gradient);
           })
      .def("clear_gradient", [](Self self) { self->table->store().references().clear(); });
}

}  // namespace loci
