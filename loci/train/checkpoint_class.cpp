// torch.classes.loci.Checkpoint and CheckpointWriter: checkpoints as objects of Python (python/loci/saved_runs.py).
//
//   Checkpoint(path, newest, sum_limit)   a step-N folder, or the newest whole one of a run (open_latest()), checked
//   path(), step(), manifest() (JSON), file(name), damaged()
//   load_tables(tables)                   rows of all its tables, deltas applied
//   CheckpointWriter(run, step)           file(name), link(checkpoint, names), write_table(table, name), finish(json)
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loci/table/table_class.h"
#include "loci/table/torch_errors.h"
#include "loci/train/checkpoint_folder.h"
#include "loci/train/table_checkpoint.h"

namespace loci {
namespace {

struct CheckpointObject : torch::CustomClassHolder {
  CheckpointObject(CheckpointReader reader, std::vector<std::string> damaged)
      : reader(std::move(reader)), damaged(std::move(damaged)) {}
  CheckpointReader reader;
  std::vector<std::string> damaged;  // newer ones that were left out, a line each
};
using CheckpointPtr = c10::intrusive_ptr<CheckpointObject>;
using TablePointers = std::vector<c10::intrusive_ptr<TableObject>>;

CheckpointPtr open_checkpoint(const std::string& path, bool newest, int64_t sum_limit) {
  return with_torch_errors([&] {
    std::vector<std::string> damaged;
    CheckpointReader reader = newest ? open_latest(
                                           path, [&](const std::string& line) { damaged.push_back(line); }, sum_limit)
                                     : CheckpointReader(path, sum_limit);
    return c10::make_intrusive<CheckpointObject>(std::move(reader), std::move(damaged));
  });
}

void load_tables(const CheckpointReader& checkpoint, const TablePointers& objects) {
  std::vector<TablePtr> tables;
  for (const auto& object : objects) tables.push_back(object->table);
  refuse_other_tables(checkpoint, tables);
  for (const TablePtr& table : tables) load_table(checkpoint, *table);
}

struct WriterObject : torch::CustomClassHolder {
  WriterObject(const std::string& run, int64_t step) : writer(run, step) {}
  CheckpointWriter writer;
  nlohmann::json tables = nlohmann::json::object();
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(loci, m) {
  register_table_class();
  using Self = const CheckpointPtr&;
  m.class_<CheckpointObject>("Checkpoint")
      .def(torch::init(open_checkpoint))
      .def("path", [](Self self) { return self->reader.path().string(); })
      .def("step", [](Self self) { return self->reader.step(); })
      .def("manifest", [](Self self) { return self->reader.manifest().dump(); })
      .def("damaged", [](Self self) { return self->damaged; })
      .def("file",
           [](Self self, const std::string& name) {
             return with_torch_errors([&] { return self->reader.file(name).string(); });
           })
      .def("load_tables", [](Self self, const TablePointers& tables) {
        with_torch_errors([&] { load_tables(self->reader, tables); });
      });

  using Writer = const c10::intrusive_ptr<WriterObject>&;
  m.class_<WriterObject>("CheckpointWriter")
      .def(torch::init([](const std::string& run, int64_t step) {
        return with_torch_errors([&] { return c10::make_intrusive<WriterObject>(run, step); });
      }))
      .def("file", [](Writer self, const std::string& name) { return self->writer.file(name).string(); })
      .def("link",
           [](Writer self, const CheckpointPtr& from, const std::vector<std::string>& names) {
             return with_torch_errors([&] {
               return self->writer.link(CheckpointFiles{from->reader.path(), from->reader.manifest()}, names);
             });
           })
      .def("write_table",
           [](Writer self, const c10::intrusive_ptr<TableObject>& table, const std::string& name) {
             with_torch_errors([&] { self->tables[name] = save_rows(self->writer, table->table->store(), name); });
           })
      .def("finish", [](Writer self, const std::string& members) {
        with_torch_errors([&] {
          nlohmann::json extra = nlohmann::json::parse(members);
          if (!extra.contains("tables")) extra["tables"] = self->tables;
          self->writer.finish(extra, /*keep_last=*/0);
        });
      });
}

}  // namespace loci
