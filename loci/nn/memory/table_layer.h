// What all layers with tables share, whether they search their rows or know them: observers of the reads, and the rows
// in archives.
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "loci/table/read_observer.h"
#include "loci/table/table.h"

namespace loci {

class TableLayer : public torch::nn::Module {
 public:
  // Observers are told of every read, in the order in which they were given; none by default. See ObserverScope.
  void add_observer(std::shared_ptr<ReadObserver> observer);
  void remove_observer(const ReadObserver* observer);
  // torch::save and torch::load of a network include the rows of its tables (table_archive.h).
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

 protected:
  using torch::nn::Module::Module;

  // All tables that the layer reads.
  virtual std::vector<TablePtr> tables() const = 0;
  void tell_observers(const MemoryReads& reads) const;

 private:
  std::vector<std::shared_ptr<ReadObserver>> observers_;
};

// The layer has this observer until the end of the scope.
class ObserverScope {
 public:
  ObserverScope(TableLayer& layer, std::shared_ptr<ReadObserver> observer);
  ~ObserverScope();
  ObserverScope(const ObserverScope&) = delete;
  ObserverScope& operator=(const ObserverScope&) = delete;

 private:
  TableLayer& layer_;
  const ReadObserver* observer_;
};

}  // namespace loci
