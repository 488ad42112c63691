// torch.classes.loci.RowOptimizer: a row optimiser as an object of Python.
//
//   RowOptimizer(table, rule, rounding, moments, pages, seed)
//   pending(rate, beta1, beta2, epsilon, weight_decay, clip_norm, scale) -> finite
//                                       sums what backward left, divided by scale, for a step with these settings
//   norm() -> number or None            of that gradient, where clipping or a doubt about its numbers asked for it
//   set_norm(norm)                      what apply() clips by: the norm over several ranks
//   apply(wanted) -> (rows, norm, skipped)      makes the step, or forgets the gradient
//   clear_state(rows [U] or None)       of these rows, or of all
//   state() -> [(name, tensor)]         the state itself: copying into a tensor changes it
#include <torch/custom_class.h>

#include <optional>
#include <string>
#include <vector>

#include "loci/optim/row_optimizer.h"
#include "loci/table/table_class.h"
#include "loci/table/torch_errors.h"

namespace loci {
namespace {

struct RowOptimizerObject : torch::CustomClassHolder {
  RowOptimizerObject(RowStore& rows, const RowOptimizerOptions& options, uint64_t seed)
      : optimizer(rows, options, seed) {}
  RowOptimizer optimizer;
  PendingRows& gradient() {
    TORCH_CHECK(pending.has_value(), "RowOptimizer: pending() must come first, got none");
    return *pending;
  }
  std::optional<PendingRows> pending;
  double scale = 1;  // of `pending`
};

c10::intrusive_ptr<RowOptimizerObject> new_row_optimizer(const c10::intrusive_ptr<TableObject>& table,
                                                         const std::string& rule, const std::string& rounding,
                                                         const std::string& moments, const std::string& pages,
                                                         int64_t seed) {
  return with_torch_errors([&] {
    RowOptimizerOptions options;
    options.rule = choice_of_word("RowOptimizer", "rule", row_rule_words(), rule);
    options.rounding = choice_of_word("RowOptimizer", "rounding", row_rounding_words(), rounding);
    options.moments = choice_of_word("RowOptimizer", "moments", row_moments_words(), moments);
    options.pages = choice_of_word("RowOptimizer", "pages", row_pages_words(), pages);
    return c10::make_intrusive<RowOptimizerObject>(table->table->store(), options, static_cast<uint64_t>(seed));
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(loci, m) {
  register_table_class();
  using Self = const c10::intrusive_ptr<RowOptimizerObject>&;
  m.class_<RowOptimizerObject>("RowOptimizer")
      .def(torch::init(new_row_optimizer))
      .def("pending",
           [](Self self, double rate, double beta1, double beta2, double epsilon, double weight_decay, double clip_norm,
              double scale) {
             self->optimizer.set_rates({rate, beta1, beta2, epsilon, weight_decay, clip_norm});
             self->scale = scale;
             self->pending = with_torch_errors([&] { return self->optimizer.pending(scale); });
             return self->pending->finite();
           })
      .def("norm", [](Self self) { return self->gradient().norm; })
      .def("set_norm", [](Self self, double norm) { self->gradient().norm = norm; })
      .def("apply",
           [](Self self, bool wanted) {
             const PendingRows& gradient = self->gradient();
             const RowStep step =
                 with_torch_errors([&] { return self->optimizer.apply(gradient, self->scale, wanted); });
             self->pending.reset();
             return std::make_tuple(step.rows, step.norm, step.skipped);
           })
      .def("clear_state",
           [](Self self, const std::optional<at::Tensor>& row) {
             row ? self->optimizer.clear_state(*row) : self->optimizer.clear_state();
           })
      .def("state", [](Self self) {
        std::vector<std::tuple<std::string, at::Tensor>> state;
        for (const auto& [name, tensor] : self->optimizer.state()) state.emplace_back(name, tensor);
        return state;
      });
}

}  // namespace loci
