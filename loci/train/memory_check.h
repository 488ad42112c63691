// What a run will need against what the machine has.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "loci/train/task.h"

namespace loci {

int64_t total_bytes(const MemoryEstimate& estimate);  // at most INT64_MAX
// "1.2 GiB (table 1.0 GiB, activations 120.0 MiB, others 3.0 MiB)": the largest purposes first, the small ones
// together.
std::string memory_text(const MemoryEstimate& estimate);
// The program itself: what is resident now, and what the framework takes once it works.
int64_t program_bytes(int64_t threads);
// What a trained model needs for use without training, at most. Tables that are mapped, and those that do not fit, are
// read from their files (table_home.h). On several ranks: what one of them needs, which holds its rows in memory.
MemoryEstimate memory_of_parameters(const RunSize& size, const Ranks& ranks = {});
// Throws Error (resources) when the file system of `folder`, which need not exist yet, has less free.
void require_disk(const std::string& who, const std::filesystem::path& folder, const MemoryEstimate& estimate);
// Throws Error (resources) when more is needed than this process can have.
void require_memory(const std::string& who, const MemoryEstimate& estimate);

}  // namespace loci
