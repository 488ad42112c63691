// Legend: T tokens, K reads of a token, D width, U distinct rows, R rows of the store.
#include "loci/table/row_gradient.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

#include "loci/base/check.h"
#include "loci/ops/row_sum/row_sum.h"

namespace loci {
namespace {

std::array<int64_t, 3> versions_of(const RowReferences& references) {
  return {version_of(references.index), version_of(references.weight), version_of(references.grad)};
}

}  // namespace

int64_t version_of(const at::Tensor& tensor) {
  return tensor.is_inference() ? 0 : int64_t{tensor._version()};
}

int64_t PendingReferences::register_use() {
  const std::lock_guard lock(mutex_);
  passes_.push_back(0);
  return std::ssize(passes_) - 1;
}

void PendingReferences::check_use(int64_t use) const {
  const std::lock_guard lock(mutex_);
  if (use >= 0 && use < std::ssize(passes_)) return;
  fail(ExitCode::bug, "table " + table_, "use must come from register_use", std::to_string(use));
}

int64_t PendingReferences::next_pass(int64_t use) {
  const std::lock_guard lock(mutex_);
  return passes_.at(static_cast<size_t>(use))++;
}

void PendingReferences::set_trained_rows(const at::Tensor& mask) {
  at::Tensor own = mask.defined() ? mask.detach().clone() : mask;
  const std::lock_guard lock(mutex_);
  trained_rows_ = std::move(own);
}

at::Tensor PendingReferences::trained_rows() const {
  const std::lock_guard lock(mutex_);
  return trained_rows_;
}

void PendingReferences::add(RowReferences references) {
  const at::Tensor &index = references.index, &weight = references.weight, &grad = references.grad;
  TORCH_CHECK(index.dim() == 2 && index.scalar_type() == at::kLong && weight.sizes() == index.sizes(), "table ", table_,
              ": references must have index int64 [T, K] and weight [T, K], got ", index.scalar_type(), " ",
              index.sizes(), " and ", weight.sizes());
  TORCH_CHECK(grad.dim() == 2 && grad.size(0) == index.size(0) && grad.size(1) == width_ &&
                  grad.scalar_type() == weight.scalar_type(),
              "table ", table_, ": references must have grad [", index.size(0), ", ", width_, "] in weight's dtype ",
              weight.scalar_type(), ", got ", grad.sizes(), " ", grad.scalar_type());
  TORCH_CHECK(index.device() == grad.device() && weight.device() == grad.device(), "table ", table_,
              ": references must be on one device, got ", index.device(), ", ", weight.device(), " and ",
              grad.device());
  const std::lock_guard lock(mutex_);
  if (trained_rows_.defined()) {  // a weight of exactly 0 touches no row
    const at::Tensor trained = trained_rows_.index_select(0, index.reshape(-1)).view_as(index);
    references.weight = weight.masked_fill(trained.logical_not(), 0);
  }
  const std::array<int64_t, 3> versions = versions_of(references);
  added_.push_back({std::move(references), versions});
}

bool PendingReferences::empty() const {
  const std::lock_guard lock(mutex_);
  return added_.empty();
}

OrderedReferences PendingReferences::ordered() const {
  std::vector<RowReferences> references;
  {
    const std::lock_guard lock(mutex_);
    for (const Added& added : added_) {
      TORCH_CHECK(versions_of(added.references) == added.versions, "table ", table_,
                  ": index, weight, input and gradient of a read must keep their values from backward until the step, "
                  "got one that was written in place");
      references.push_back(added.references);
    }
  }
  if (references.empty()) {
    references.push_back(
        {at::empty({0, 1}, at::kLong), at::empty({0, 1}, at::kFloat), at::empty({0, width_}, at::kFloat)});
  }
  std::stable_sort(references.begin(), references.end(), [](const RowReferences& a, const RowReferences& b) {
    return std::pair(a.pass, a.use) < std::pair(b.pass, b.use);
  });
  std::vector<at::Tensor> index, weight, grad;
  for (const RowReferences& read : references) {
    index.push_back(read.index);
    weight.push_back(read.weight);
    grad.push_back(read.grad);
  }
  return {row_order(index, weight), grad.size() == 1 ? grad[0].contiguous() : at::cat(grad)};
}

RowGradient PendingReferences::sum() const {
  const OrderedReferences ordered = this->ordered();
  return {ordered.order.row, row_sum(ordered.order, ordered.source)};
}

void PendingReferences::clear() {
  const std::lock_guard lock(mutex_);
  added_.clear();
  passes_.assign(passes_.size(), 0);
}

}  // namespace loci
