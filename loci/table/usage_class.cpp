// torch.classes.loci.Usage: counts of a table's reads as an object of Python.
//
//   Usage(rows); state() [rows, 3] int32 for usage_add_at_; set_step(step); begin_window(step); clear()
//   metrics() -> {"usage": ..., "kl": ..., ...}       UsageMetrics (usage.h)
// and usage_add_at_(counters, index, weight, when [2] int64): usage_add with window and step from a tensor, for
// compiled code, which would be compiled again for every step otherwise.
#include <c10/util/Exception.h>
#include <torch/custom_class.h>

#include "loci/ops/operator.h"
#include "loci/table/usage.h"

namespace loci {
namespace {

struct UsageObject : torch::CustomClassHolder {
  explicit UsageObject(int64_t rows) : usage(rows) {
    TORCH_CHECK_VALUE(rows >= 1, "Usage: rows must be at least 1, got ", rows);
  }
  Usage usage;
};

void usage_add_at(const at::Tensor& counters, const at::Tensor& index, const at::Tensor& weight,
                  const at::Tensor& when) {
  TORCH_CHECK(when.scalar_type() == at::kLong && when.dim() == 1 && when.sym_size(0) == 2,
              "usage_add: when must be int64 [2] (window, step), got ", when.scalar_type(), " ", when.sym_sizes());
  if (counters.is_meta()) return;
  const at::Tensor here = when.to(at::kCPU).contiguous();
  usage_add(counters, index, weight, here.const_data_ptr<int64_t>()[0], here.const_data_ptr<int64_t>()[1]);
}

c10::Dict<std::string, double> metrics_of(const Usage& usage) {
  const UsageMetrics m = usage.metrics();
  c10::Dict<std::string, double> numbers;
  const auto add = [&](const char* name, auto value) { numbers.insert(name, static_cast<double>(value)); };
  add("rows", m.rows);
  add("reads", m.reads);
  add("distinct_rows", m.distinct_rows);
  add("usage", m.usage);
  add("usage_at_1", m.usage_at_1);
  add("kl", m.kl);
  add("kl_reads", m.kl_reads);
  add("gini", m.gini);
  add("rows_50", m.rows_50);
  add("rows_90", m.rows_90);
  add("rows_99", m.rows_99);
  add("collision", m.collision);
  add("staleness_median", m.staleness_median);
  add("staleness_p90", m.staleness_p90);
  add("never_touched", m.never_touched);
  return numbers;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(loci, m) {
  using Self = const c10::intrusive_ptr<UsageObject>&;
  m.class_<UsageObject>("Usage")
      .def(torch::init<int64_t>())
      .def("state", [](Self self) { return self->usage.state(); })
      .def("set_step", [](Self self, int64_t step) { self->usage.set_step(step); })
      .def("begin_window", [](Self self, int64_t step) { self->usage.begin_window(step); })
      .def("clear", [](Self self) { self->usage.clear(); })
      .def("metrics", [](Self self) { return metrics_of(self->usage); });
  define_operator(m, "usage_add_at_(Tensor(a!) counters, Tensor index, Tensor weight, Tensor when) -> ()", usage_add_at,
                  torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(loci, ADInplaceOrView, m) {
  m.impl("usage_add_at_", moves_versions());
}

}  // namespace loci
