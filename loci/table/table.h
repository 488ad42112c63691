// A table as a block sees it: rows that it reads by number. A block never knows where the rows are.
//
// Legend: T tokens, K reads of a token, N rows, D width.
//
// The user makes a table and gives it to the layers that share it. It is no parameter of a module: dense optimisers
// never see it, and a checkpoint holds it once, under its name.
//
// A table has two faces. This one is for blocks. The other, RowStore (row_store.h), is for the code that works on the
// rows of this process: optimisers, checkpoints, calibration, conversion, initialisation. LocalTable, MappedTable and
// ServedTable have all their rows in one RowStore (held_table.h), ShardedTable has a part of them. A table whose rows
// are in another process or on another device is one more class that implements the virtual functions below:
//   - read and project take numbers of the whole table, of any rows, and return the same for any placement, up to the
//     rounding of sums (sharded_table.h says where);
//   - their backward gives the gradient of weight or x, and leaves row references at the store of the owner
//     (row_gradient.h), numbered by that store's first row;
//   - store() is the part of this process. It may have no rows.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <memory>
#include <string>

namespace at {
class Tensor;
}

namespace loci {

class RowStore;
struct RowRange;

class Table {
 public:
  virtual ~Table() = default;
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  const std::string& name() const { return name_; }
  int64_t rows() const { return rows_; }    // N, of all processes together
  int64_t width() const { return width_; }  // D
  virtual c10::ScalarType dtype() const = 0;
  virtual c10::Device device() const = 0;  // where index, weight and x must be
  // The dtype of weight, x and results: float64 for float64 rows, float32 for all others.
  c10::ScalarType sum_dtype() const;

  // A number for a layer, to pass to read and project. Gradients of several layers are summed in its order.
  int64_t register_use();

  // Sums of rows: out[t] = sum over r of weight[t, r] * row[index[t, r]].
  // index [T, K] int64, weight [T, K] -> [T, D]. Throws IndexError for a row that does not exist.
  virtual at::Tensor read(const at::Tensor& index, const at::Tensor& weight, int64_t use) = 0;
  // Inner products with rows: out[t, r] = <row[index[t, r]], x[t]>.
  // index [T, K] int64, x [T, D] -> [T, K].
  virtual at::Tensor project(const at::Tensor& index, const at::Tensor& x, int64_t use) = 0;

  // Brings rows into memory that will be read soon, so that the disk is asked for all of them at once and not for one
  // at a time. rows: int64 of any shape, which may repeat. A table in memory has nothing to do; a table in files
  // (mapped_table.h) fetches the pages of values and scale, and, unless the table is frozen or gradients are off for
  // this thread, of what optimisers keep for these rows. Returns when they are there; results of reads are the same
  // with and without it. Throws IndexError for a row that does not exist, Error when the disk fails. Any thread may
  // call it while others read, project and step, once the optimisers are made.
  virtual void prefetch(const at::Tensor& rows) = 0;

  // A frozen table gets no row references; weight and x get their gradients all the same. Served and int8 rows are
  // always frozen. A change drops pending references.
  void set_frozen(bool frozen);
  bool frozen() const;
  // Trains only the rows whose `mask` [N] bool is true: a backward pass leaves no reference to any other row, so no
  // optimiser touches it. Undefined: all rows (default). For finetuning of a few rows: read_background.h chooses them,
  // row_patch.h writes down what changed.
  void set_trained_rows(const at::Tensor& mask);

  // The rows whose counters, and whose part of a checkpoint, are this process's.
  virtual RowRange own_rows() const;
  virtual RowStore& store() = 0;
  virtual const RowStore& store() const = 0;

 protected:
  Table(std::string name, int64_t rows, int64_t width);

 private:
  std::string name_;
  int64_t rows_;
  int64_t width_;
};

using TablePtr = std::shared_ptr<Table>;

}  // namespace loci
