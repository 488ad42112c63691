#include "loci/train/wire.h"

#include <fmt/format.h>

#include "loci/base/progress.h"
#include "loci/distributed/exchange_cost.h"

namespace loci {

nlohmann::json wire_of(const RunSize& size, int64_t ranks) {
  const auto P = static_cast<double>(ranks);
  // A sum over ranks sends each number twice, but for a rank's own part.
  const double dense = 2 * 4.0 * static_cast<double>(size.parameters_dense) * (P - 1) / P;
  nlohmann::json wire = {{"dense_gradients", dense}, {"tables", nlohmann::json::array()}};
  double total = dense;
  for (const TableExchange& exchange : size.exchanges) {
    const double tokens = static_cast<double>(size.units_per_step) / P * static_cast<double>(exchange.passes);
    const auto bytes = [&](TableParts parts) { return tokens * expected_bytes(parts, ranks, exchange.reads).both(); };
    const TableParts parts = parts_of(exchange.shard, ranks, exchange.reads);
    wire["tables"].push_back({{"table", exchange.table},
                              {"shard", name_of(parts)},
                              {"bytes", bytes(parts)},
                              {"bytes_rows", bytes(TableParts::rows)},
                              {"bytes_columns", bytes(TableParts::columns)},
                              {"auto", name_of(cheaper_parts(ranks, exchange.reads))}});
    total += bytes(parts);
  }
  wire["total"] = total;
  return wire;
}

std::string wire_text(const nlohmann::json& wire) {
  const auto bytes = [](const nlohmann::json& number) { return format_bytes(number.get<double>()); };
  std::string text =
      fmt::format("sent in a step: {} (dense gradients {}", bytes(wire["total"]), bytes(wire["dense_gradients"]));
  for (const auto& table : wire["tables"]) {
    text += fmt::format(", {} by {} {}", table["table"].get<std::string>(), table["shard"].get<std::string>(),
                        bytes(table["bytes"]));
  }
  text += ")";
  for (const auto& table : wire["tables"]) {
    text += fmt::format("; {}: by rows {}, by columns {}, fewer by {}", table["table"].get<std::string>(),
                        bytes(table["bytes_rows"]), bytes(table["bytes_columns"]), table["auto"].get<std::string>());
  }
  return text;
}

}  // namespace loci
