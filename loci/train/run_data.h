// Which data a run was trained on: data.json in its folder. Runs of one OUT are compared, so they must share it.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <functional>
#include <string>

namespace loci {

struct RunData {
  std::string settings;  // Task::data_settings(): runs with other settings may have other data
  std::string key;       // Task::data_key()
  nlohmann::json facts;  // Task::data_facts()
};

// Compares the data with those of the runs in OUT/ARM/seed-N, this one included, and records them in the run's folder,
// which must exist. Throws Error (input) that names the other run and what is different: what `changes` says of its
// key, else the first fact that differs.
void record_run_data(const std::filesystem::path& out, const std::filesystem::path& run, const RunData& data,
                     const std::function<std::string(const std::string& key_before)>& changes);

}  // namespace loci
