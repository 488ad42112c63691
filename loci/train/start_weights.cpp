#include "loci/train/start_weights.h"

#include <algorithm>
#include <map>
#include <vector>

#include "loci/base/check.h"
#include "loci/base/paths.h"
#include "loci/train/checkpoint.h"
#include "loci/train/table_checkpoint.h"
#include "loci/train/tensor_file.h"

namespace loci {
namespace {

namespace fs = std::filesystem;

CheckpointReader open_start(const fs::path& folder, const std::function<void(const std::string&)>& notice,
                            int64_t sum_limit) {
  const fs::path plain = canonical_path(folder);
  if (path_exists(plain / "manifest.json")) return CheckpointReader(plain, sum_limit);
  if (newest_step_folder(plain)) return open_latest(plain, notice, sum_limit);
  fail(ExitCode::input, folder.string(),
       "start.weights must be a safetensors file, a run directory or one of its step-N folders",
       "a folder without checkpoints");
}

// A memory's rows are no tensors of its module: they come from a checkpoint alone.
void refuse_memory_without_rows(const std::map<std::string, at::Tensor>& state, const Table& table,
                                const std::string& who) {
  const std::string memory = table.name().substr(0, table.name().rfind('.') + 1);
  const auto is_of_it = [&memory](const auto& tensor) { return tensor.first.starts_with(memory); };
  const auto found = std::find_if(state.begin(), state.end(), is_of_it);
  if (found == state.end()) return;
  fail(ExitCode::input, who, fmt::format("a memory must come with its rows, from a run or its step-N folder"),
       found->first + " without rows");
}

}  // namespace

StartWeights::StartWeights(const fs::path& source, const std::function<void(const std::string&)>& notice,
                           int64_t sum_limit) {
  switch (kind_of(source)) {
    case PathKind::folder:
      checkpoint_.emplace(open_start(source, notice, sum_limit));
      file_ = checkpoint_->file(kModelFile);
      break;
    case PathKind::file:
      SafetensorsReader{source};
      file_ = source;
      break;
    case PathKind::nothing:
    case PathKind::other:
      fail(ExitCode::input, source.string(),
           "start.weights must be a safetensors file, a run directory or one of its step-N folders",
           kind_of(source) == PathKind::nothing ? "nothing there" : "another kind of file");
  }
}

std::string StartWeights::copy_into(Task& task) const {
  const std::string who = path().string();
  const std::map<std::string, at::Tensor> state = read_tensors(file_);
  std::vector<TablePtr> tables, given;
  for (const auto& [table, options] : task.tables()) tables.push_back(table);
  if (checkpoint_) refuse_other_tables(*checkpoint_, tables);
  for (const TablePtr& table : tables) {
    if (checkpoint_ && has_table(*checkpoint_, table->name())) {
      given.push_back(table);
    } else {
      refuse_memory_without_rows(state, *table, who);
    }
  }
  task.start_from(state, who);
  for (const TablePtr& table : given) load_table(*checkpoint_, *table);
  size_t names = task.module().named_parameters().size() + task.module().named_buffers().size();
  size_t found = 0;
  for (const auto& parameter : task.module().named_parameters()) found += state.count(parameter.key());
  for (const auto& buffer : task.module().named_buffers()) found += state.count(buffer.key());
  return fmt::format("starts from {}: {} of {} tensors and {} of {} tables, the others as drawn", who, found, names,
                     given.size(), tables.size());
}

}  // namespace loci
