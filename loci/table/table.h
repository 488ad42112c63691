// The rows of a memory. A block reads through this class and never knows where the rows live.
//
// Legend: T tokens, K reads of a token, N rows, D width.
//
// A table is an object that its user makes and hands to the layers that share it. It is no parameter of a module:
// dense optimisers never see it, and a checkpoint holds it once, under its name.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "loci/table/page_memory.h"
#include "loci/table/row_gradient.h"
#include "loci/table/row_marks.h"

namespace loci {

// What backward leaves at the table.
enum class GradientMode {
  references,  // row references for a row optimiser; values().grad() stays undefined (default)
  coalesced,   // values().grad(): sparse COO, coalesced
  dense,       // values().grad(): dense, for torch::optim
  none,        // frozen
};

class Table : public std::enable_shared_from_this<Table> {
 public:
  virtual ~Table() = default;
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  const std::string& name() const { return name_; }
  int64_t rows() const { return rows_; }
  int64_t width() const { return width_; }
  // [N, D], the storage itself. Load by copying into it: a replaced storage would lose huge pages and mappings.
  virtual const at::Tensor& values() const = 0;
  // [N] float32, one a row, of int8 rows alone (they are frozen: mode `none`).
  virtual std::optional<at::Tensor> scale() const { return std::nullopt; }
  int64_t bytes() const;

  // Counter-based: N(0, std^2) by (seed, table name, row, column), so that a shard equals its part of the whole.
  void initialise_normal(uint64_t seed, double std);
  void initialise_zero();  // writes nothing: untouched rows cost neither memory nor disk
  // Rows first .. first + n - 1 become `rows` [n, D], in the table's dtype: int8 by table/quantise.h.
  void set_rows(int64_t first, const at::Tensor& rows);

  // Zero storage [N, width] ([N] for width 0) for what belongs to the rows, such as an optimiser's moments. It lives
  // where the rows do; `what` names it.
  virtual at::Tensor row_storage(const std::string& what, int64_t width, at::ScalarType dtype, PageSize page) = 0;
  // Makes values(), scale() or a row_storage() zero again without writing it.
  virtual void clear_storage(const at::Tensor& storage) = 0;

  // Calls `write`, which changes these rows [U] int64 or what belongs to them, and marks them as changed.
  void write_rows(const at::Tensor& row, const std::function<void()>& write);
  void mark_all_changed() { changed_.mark_all(); }
  // The rows that differ from the last checkpoint: those marked, or all where values() was written in another way.
  const RowMarks& changed_rows();
  void clear_changed_rows();  // a checkpoint holds them now

  // A layer's number, by which gradients of several layers are summed in a fixed order.
  int64_t register_use();

  // [T, D] in weight's dtype: the weighted sums of rows (ops/table_read). Under autograd, backward gives the gradient
  // of `weight` and leaves a row reference (index, weight, output gradient) here. `use` comes from register_use().
  at::Tensor read(const at::Tensor& index, const at::Tensor& weight, int64_t use);

  void set_gradient_mode(GradientMode mode);  // int8 rows know `none` alone
  GradientMode gradient_mode() const { return mode_; }
  // Only rows whose `mask` [N] bool is true are trained: backward through a read of another row leaves nothing here, so
  // no optimiser touches it. Undefined: all rows (default). For finetuning of a few rows: read_background.h chooses
  // them, row_patch.h writes down what changed.
  void set_trained_rows(const at::Tensor& mask);
  bool has_gradient() const { return !references_.empty(); }
  // The sum of the pending references; they stay until zero_gradient(). In the modes `coalesced` and `dense`, clearing
  // or changing values().grad(), as a torch::optim optimiser does, ends them too: later passes then add to what is
  // there.
  RowGradient gradient() const;
  // The same, not summed yet: for an optimiser that sums and updates in one pass.
  OrderedReferences ordered_references() const { return order_references(references_, width_); }
  // Sums the pending references early, to bound memory while micro-batches accumulate (rounding may differ).
  void compact();
  void zero_gradient();

  // For the autograd function of read(): not part of the interface of users.
  void add_references(RowReferences references);

 protected:
  Table(std::string name, int64_t rows, int64_t width);
  // Called before rows [U] are written; an undefined tensor: all of them.
  virtual void before_write(const at::Tensor& row) { (void)row; }

 private:
  void notice_foreign_writes();
  void leave_gradient(RowReferences read);

  std::string name_;
  int64_t rows_;
  int64_t width_;
  GradientMode mode_ = GradientMode::references;
  at::Tensor trained_rows_;     // [N] bool; undefined: all
  std::vector<int64_t> reads_;  // of each use under autograd since zero_gradient(): the number of its next pass
  std::vector<RowReferences> references_;
  // The values().grad() that the pending references gave, to tell whether somebody changed it since.
  const void* left_ = nullptr;
  int64_t left_version_ = 0;
  RowMarks changed_;
  int64_t known_version_ = 0;  // of values(), when the marks were right
  std::mutex mutex_;           // backward may run on several threads
};

using TablePtr = std::shared_ptr<Table>;

}  // namespace loci
