#include "loci/train/checkpoint.h"

#include <map>
#include <utility>

#include "loci/base/durable_file.h"
#include "loci/distributed/agreement.h"
#include "loci/train/column_checkpoint.h"
#include "loci/train/table_checkpoint.h"
#include "loci/train/tensor_file.h"

namespace loci {
namespace {

constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kTask = "task.safetensors";

NamedTensors tensors_of(const torch::nn::Module& module) {
  NamedTensors tensors;
  for (const auto& parameter : module.named_parameters()) tensors.emplace_back(parameter.key(), parameter.value());
  for (const auto& buffer : module.named_buffers()) tensors.emplace_back(buffer.key(), buffer.value());
  return tensors;
}

nlohmann::json to_json(const TrainerState& state) {
  return {{"seconds", state.seconds},
          {"skips", state.skips},
          {"all_skips", state.all_skips},
          {"loss_sum", state.loss_sum},
          {"loss_count", state.loss_count},
          {"evaluation", state.evaluation},
          {"evaluated_step", state.evaluated_step}};
}

TrainerState state_of(const CheckpointReader& checkpoint, const Task& task) {
  return checkpoint.read("the manifest must hold the trainer's state", [&](const nlohmann::json& manifest) {
    const nlohmann::json& json = manifest.at("trainer");
    TrainerState state;
    state.step = checkpoint.step();
    json.at("seconds").get_to(state.seconds);
    json.at("skips").get_to(state.skips);
    json.at("all_skips").get_to(state.all_skips);
    json.at("loss_sum").get_to(state.loss_sum);
    json.at("loss_count").get_to(state.loss_count);
    state.evaluation = json.at("evaluation");
    json.at("evaluated_step").get_to(state.evaluated_step);
    if (state.evaluated_step == state.step) {  // it may become the run's result
      for (const Measure& measure : task.measures()) state.evaluation.at("measures").at(measure.name);
    }
    return state;
  });
}

int64_t step_of(const CheckpointFiles& checkpoint) {
  return checkpoint.manifest.at("step").get<int64_t>();
}

// A checkpoint of rank 0, for the others: its folder, a byte 0 and its manifest.
std::string text_of(const CheckpointFiles& checkpoint) {
  const std::string manifest = checkpoint.manifest.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return checkpoint.folder.string() + '\0' + manifest;
}

CheckpointFiles checkpoint_of(const std::string& text) {
  const size_t end = text.find('\0');
  return {text.substr(0, end), nlohmann::json::parse(text.substr(end + 1))};
}

std::vector<TablePtr> tables_of(Task& task) {
  std::vector<TablePtr> tables;
  for (const auto& [table, options] : task.tables()) tables.push_back(table);
  return tables;
}

// For each table; ranks may exchange counts for it.
std::vector<RowCounters> counters_of(Task& task, const TrainerState& state) {
  std::vector<RowCounters> counters;
  for (const TablePtr& table : tables_of(task)) {
    counters.push_back(task.row_state(*table, state.saved ? step_of(*state.saved) : 0));
  }
  return counters;
}

bool by_columns(const Table& table) {
  return !table.store().columns().whole();
}

// The whole rows here, and what belongs to them. Returns the entries of the manifest.
nlohmann::json save_tables(CheckpointPart& part, Task& task, const OptimizerSet& optimizers, const TrainerState& state,
                           const std::vector<RowCounters>& counters, const Ranks& ranks) {
  nlohmann::json entries = nlohmann::json::object();
  const std::vector<TablePtr> tables = tables_of(task);
  for (size_t i = 0; i < tables.size(); ++i) {
    if (by_columns(*tables[i])) continue;
    const RowOptimizer& optimizer = optimizers.rows_of(*tables[i]);
    entries[tables[i]->name()] = save_table(part, state.step, optimizer, state.saved, counters[i], ranks);
  }
  return entries;
}

void save_beside_rows(CheckpointPart& part, Task& task, const OptimizerSet& optimizers) {
  write_tensors(part.file(kModelFile), tensors_of(task.module()));
  write_tensors(part.file(kOptimizer), optimizers.state_beside_rows());
  write_tensors(part.file(kTask), task.extra_state());
  for (const auto& [name, content] : task.files()) write_file_durably(part.file(name), content);
}

// What each rank wrote, as one: of tables the entries of all ranks, and the files of other ranks in `writer`.
nlohmann::json join_tables(CheckpointWriter& writer, const std::vector<std::string>& written) {
  std::map<std::string, std::vector<nlohmann::json>> parts;
  for (const std::string& text : written) {
    const nlohmann::json of_rank = nlohmann::json::parse(text);
    writer.add(of_rank.at("files"));
    for (const auto& [table, entry] : of_rank.at("tables").items()) parts[table].push_back(entry);
  }
  nlohmann::json tables = nlohmann::json::object();
  for (const auto& [table, entries] : parts) tables[table] = entry_of_parts(table, entries);
  return tables;
}

}  // namespace

void save_checkpoint(const RunDirectory& run, Task& task, const OptimizerSet& optimizers, TrainerState& state,
                     const nlohmann::json& facts, int64_t keep_last, const Ranks& ranks) {
  std::optional<CheckpointWriter> writer;  // of rank 0
  together(ranks, [&] {
    if (ranks.rank == 0) writer.emplace(run.path(), state.step);
  });
  const std::string folder = gather_texts(ranks, writer ? writer->folder().string() : "").front();
  std::vector<RowCounters> counters;  // not below, where a rank may fail before it sends what others wait for
  together(ranks, [&] { counters = counters_of(task, state); });
  std::optional<CheckpointPart> other;  // of other ranks
  nlohmann::json mine;
  together(ranks, [&] {
    if (!writer) other.emplace(folder);
    CheckpointPart& part = writer ? *writer : *other;
    if (writer) save_beside_rows(part, task, optimizers);
    mine["tables"] = save_tables(part, task, optimizers, state, counters, ranks);
  });
  const std::vector<TablePtr> tables = tables_of(task);
  for (size_t i = 0; i < tables.size(); ++i) {
    if (!by_columns(*tables[i])) continue;
    together(ranks, [&] {  // each alone: a rank that fails in one does not wait in the next
      mine["tables"][tables[i]->name()] =
          save_columns(writer ? *writer : *other, optimizers.rows_of(*tables[i]), counters[i], ranks);
    });
  }
  std::string written;
  together(ranks, [&] {
    mine["files"] = other ? other->sync() : nlohmann::json::object();
    written = mine.dump();
  });
  const std::vector<std::string> of_ranks = gather_texts(ranks, written);
  std::string saved;
  together(ranks, [&] {
    if (!writer) return;
    nlohmann::json extra = facts;
    extra["trainer"] = to_json(state);
    extra["data"] = task.data_key();
    extra["tables"] = join_tables(*writer, of_ranks);
    state.saved = writer->finish(extra, keep_last);
    if (ranks.size > 1) saved = text_of(*state.saved);
  });
  if (ranks.size > 1) state.saved = checkpoint_of(gather_texts(ranks, saved).front());
  for (const TablePtr& table : tables_of(task)) table->store().clear_changed_rows();
}

void require_data(const CheckpointReader& checkpoint, const std::string& data_key) {
  const auto trained_on = checkpoint.member("data", std::string());
  if (trained_on == data_key) return;
  fail(ExitCode::input, checkpoint.path().string(),
       fmt::format("the checkpoint must have been trained on the data \"{}\"", data_key),
       fmt::format("\"{}\"", trained_on));
}

TrainerState load_checkpoint(const CheckpointReader& checkpoint, Task& task, const OptimizerSet& optimizers,
                             const Ranks& ranks) {
  require_data(checkpoint, task.data_key());
  if (checkpoint.manifest().contains("converted")) {
    fail(ExitCode::usage, checkpoint.path().string(), "a run that goes on must have been trained",
         "one made for serving (loci convert, loci.save_run)");
  }
  TrainerState state = state_of(checkpoint, task);
  const std::vector<TablePtr> tables = tables_of(task);
  refuse_other_tables(checkpoint, tables);
  std::vector<RowCounters> counters;
  together(ranks, [&] { counters = counters_of(task, {}); });
  together(ranks, [&] {
    load_tensors(checkpoint.file(kModelFile), tensors_of(task.module()));
    load_tensors(checkpoint.file(kOptimizer), optimizers.state_beside_rows());
    for (size_t i = 0; i < tables.size(); ++i) {
      load_table(checkpoint, *tables[i], &optimizers.rows_of(*tables[i]), counters[i].tensors);
    }
    load_tensors(checkpoint.file(kTask), task.extra_state());
  });
  state.saved = CheckpointFiles{checkpoint.path(), checkpoint.manifest()};
  task.extra_state_loaded();
  return state;
}

void load_model(const CheckpointReader& checkpoint, const torch::nn::Module& module,
                const std::vector<TablePtr>& tables) {
  refuse_other_tables(checkpoint, tables);
  load_tensors(checkpoint.file(kModelFile), tensors_of(module));
  for (const TablePtr& table : tables) load_table(checkpoint, *table);
}

void load_model(const CheckpointReader& checkpoint, Task& task) {
  load_model(checkpoint, task.module(), tables_of(task));
}

}  // namespace loci
