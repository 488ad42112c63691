// torch.classes.loci.Reinitialisation: an event of re-initialisation (reinitialise.h) for memories in Python.
//
// Legend: H heads, n1, n2 sub-keys, w half a key's width, N rows, U redrawn, V live.
//
//   Reinitialisation(table, keys, values, dead_below, most_redrawn, noise)   keys "query", "split" or "fresh"; values
//                                                                            "fresh", "copy", "zero" or "keep"
//   add_layer(name, keys1 [H, n1, w], keys2 [H, n2, w], modulo, row_offset, sub_keys [H, n1 + n2], usage [N, 3],
//             queries [.., H, 2, w] or None)
//   redraw(seed, number, begin, begin_before, row_deviation)
//       -> redrawn sub-keys of each layer, refreshed rows [U], and of each head and half with dead sub-keys
//          (layer, half, dead [U], live [V]): what must be forgotten of the state of optimisers, numbered head * n + i
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/custom_class.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "loci/nn/memory/reinitialise.h"
#include "loci/table/row_store.h"
#include "loci/table/table_class.h"
#include "loci/table/torch_errors.h"

namespace loci {
namespace {

using at::Tensor;

using ForgottenKeys = std::tuple<int64_t, int64_t, Tensor, Tensor>;

struct ReinitialisationObject : torch::CustomClassHolder {
  TablePtr table;
  ReinitialiseOptions options;
  std::vector<CountedKeys> layers;
  std::vector<Tensor> held;  // what their spans are of
};

c10::intrusive_ptr<ReinitialisationObject> new_reinitialisation(const c10::intrusive_ptr<TableObject>& table,
                                                                const std::string& keys, const std::string& values,
                                                                double dead_below, double most_redrawn, double noise) {
  auto made = c10::make_intrusive<ReinitialisationObject>();
  made->table = table->table;
  with_torch_errors([&] {
    made->options.keys = choice_of_word("Reinitialisation", "keys", key_rule_words(), keys);
    made->options.values = choice_of_word("Reinitialisation", "values", value_rule_words(), values);
  });
  made->options.dead_below = dead_below;
  made->options.most_redrawn = most_redrawn;
  made->options.noise = noise;
  return made;
}

void add_layer(const c10::intrusive_ptr<ReinitialisationObject>& self, const std::string& name, const Tensor& keys1,
               const Tensor& keys2, bool modulo, int64_t row_offset, const Tensor& sub_keys, const Tensor& usage,
               const std::optional<Tensor>& queries) {
  const auto rows = self->table->rows();
  TORCH_CHECK_VALUE(
      keys1.dim() == 3 && keys2.dim() == 3 && keys1.size(0) == keys2.size(0) && keys1.size(2) == keys2.size(2),
      "Reinitialisation: keys must be [H, n1, w] and [H, n2, w], got ", keys1.sizes(), " and ", keys2.sizes());
  for (const Tensor& given : {keys1, keys2, sub_keys, usage, queries.value_or(keys1)}) {
    TORCH_CHECK_VALUE(given.is_cpu(), "Reinitialisation: keys and counts must be on cpu, got ", given.device());
  }
  const std::vector<int64_t> counts = {keys1.size(0), keys1.size(1) + keys2.size(1)};
  TORCH_CHECK_VALUE(sub_keys.scalar_type() == at::kLong && sub_keys.sizes() == counts && sub_keys.is_contiguous(),
                    "Reinitialisation: sub_keys must be int64 ", counts, ", got ", sub_keys.scalar_type(), " ",
                    sub_keys.sizes());
  TORCH_CHECK_VALUE(
      usage.scalar_type() == at::kInt && usage.sizes() == std::vector<int64_t>({rows, 3}) && usage.is_contiguous(),
      "Reinitialisation: usage must be int32 [", rows, ", 3], got ", usage.scalar_type(), " ", usage.sizes());
  const std::vector<int64_t> query = {keys1.size(0), 2, keys1.size(2)};
  TORCH_CHECK_VALUE(!queries || (queries->scalar_type() == at::kFloat && queries->dim() == 4 &&
                                 queries->sizes().slice(1) == query && queries->is_contiguous()),
                    "Reinitialisation: queries must be float32 [U, ...] with ", query, ", got ",
                    queries ? c10::str(queries->scalar_type(), " ", queries->sizes()) : "none");
  const auto* const first = reinterpret_cast<const RowUsage*>(usage.const_data_ptr<int32_t>());
  self->held.push_back(usage);
  self->layers.push_back({name,
                          keys1,
                          keys2,
                          modulo ? RowAddressing::modulo : RowAddressing::mask,
                          row_offset,
                          sub_keys,
                          {first, static_cast<size_t>(rows)},
                          queries.value_or(Tensor())});
}

std::tuple<std::vector<int64_t>, Tensor, std::vector<ForgottenKeys>> redraw(
    const c10::intrusive_ptr<ReinitialisationObject>& self, int64_t seed, int64_t number, int64_t begin,
    int64_t begin_before, double row_deviation) {
  std::vector<ForgottenKeys> keys;
  std::vector<Tensor> rows = {at::empty({0}, at::kLong)};
  const auto forget_keys = [&](const Tensor& of, const Tensor& dead, const Tensor& live) {
    for (size_t l = 0; l < self->layers.size(); ++l) {
      const CountedKeys& layer = self->layers[l];
      if (of.is_same(layer.keys1)) keys.emplace_back(static_cast<int64_t>(l), 0, dead, live);
      if (of.is_same(layer.keys2)) keys.emplace_back(static_cast<int64_t>(l), 1, dead, live);
    }
  };
  const ReinitialiseEvent event{number, begin, begin_before, static_cast<uint64_t>(seed), row_deviation};
  const Reinitialised done = with_torch_errors([&] {
    return reinitialise(self->table->store(), self->layers, event, self->options,
                        {forget_keys, [&](const Tensor& row) { rows.push_back(row); }});
  });
  return {done.redrawn, at::cat(rows), keys};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(loci, m) {
  register_table_class();
  m.class_<ReinitialisationObject>("Reinitialisation")
      .def(torch::init(new_reinitialisation))
      .def("add_layer", add_layer)
      .def("redraw", redraw);
  // reset_moment_rows (dense_optimizer.h), for the optimisers of torch.
  m.def("reset_moment_rows_(Tensor(a!) moment, Tensor rows, Tensor? like) -> ()",
        [](const Tensor& moment, const Tensor& rows, const std::optional<Tensor>& like) {
          with_torch_errors([&] { reset_moment_rows(moment, rows, like.value_or(Tensor())); });
        });
}

}  // namespace loci
