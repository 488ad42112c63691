// For tests: a manifest changed by hand, with the sum of what it says now.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "loci/base/checksum.h"
#include "loci/base/durable_file.h"

namespace loci {

inline void rewrite_manifest(const std::filesystem::path& step, const std::function<void(nlohmann::json&)>& change) {
  nlohmann::json manifest = nlohmann::json::parse(read_text_file(step / "manifest.json"));
  manifest.erase("sum");
  change(manifest);
  std::string body = manifest.dump(2);
  body.resize(body.size() - 2);  // "\n}"
  const std::string sum = checksum(std::as_bytes(std::span(body.data(), body.size())));
  write_file_durably(step / "manifest.json", body + ",\n  \"sum\": \"" + sum + "\"\n}\n");
}

}  // namespace loci
