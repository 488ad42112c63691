#include "loci/program/program_file.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "loci/base/durable_file.h"

namespace loci {
namespace {

using nlohmann::json;

constexpr std::string_view kProgramFormat = "loci-ram-program";
constexpr int kProgramVersion = 1;

json circuit_json(const CircuitShape& shape, const Circuit& circuit) {
  json modules = json::array();
  for (int i = 0; i < shape.size(); ++i) {
    const Circuit::Module& wires = circuit.modules[static_cast<size_t>(i)];
    json operands = json::array();
    if (shape.module(i).operands >= 1) operands.push_back(wires.a);
    if (shape.module(i).operands >= 2) operands.push_back(wires.b);
    modules.push_back(wires.kept ? operands : json());
  }
  return {{"modules", modules}, {"registers", circuit.sources}, {"stop", circuit.stop}};
}

class ProgramReader {
 public:
  ProgramReader(std::string_view who, const std::vector<RamModule>& known) : who_(who), known_(known) {}

  RamProgram program(const json& root) {
    keys(root, "program", {"format", "version", "registers", "repeats", "modules", "circuits", "table"});
    require(root["format"] == kProgramFormat, fmt::format("format must be \"{}\"", kProgramFormat), root["format"]);
    require(root["version"] == kProgramVersion, fmt::format("version must be {}", kProgramVersion), root["version"]);
    CircuitShape shape{.registers = integer(root["registers"], "registers", 1, 20),
                       .modules = {},
                       .repeats = integer(root["repeats"], "repeats", 1, 4096)};
    for (const json& name : list(root["modules"], "modules", 4096)) shape.modules.push_back(module(name));
    check_shape(who_, shape);

    const size_t rows = size_t{1} << shape.registers;
    std::vector<Circuit> circuits;
    for (const json& entry : list(root["circuits"], "circuits", rows)) {
      circuits.push_back(circuit(entry, shape));
      check_circuit(who_, shape, circuits.back());
    }
    std::vector<int32_t> table;
    const int last = static_cast<int>(circuits.size()) - 1;
    for (const json& row : list(root["table"], "table", rows)) {
      table.push_back(integer(row, "row of table", RamProgram::kUnseen, last));
    }
    require(table.size() == rows, fmt::format("table must have {} rows", rows), table.size());
    return RamProgram(std::move(shape), std::move(circuits), std::move(table));
  }

  [[noreturn]] void refuse(std::string_view expected, std::string_view got) const {
    fail(ExitCode::input, who_, expected, got);
  }

 private:
  void require(bool good, const std::string& expected, const json& got) const {
    if (good) return;
    if (got.is_structured()) refuse(expected, got.type_name());
    const std::string text = got.dump(-1, ' ', true, json::error_handler_t::replace);
    refuse(expected, text.size() > 60 ? text.substr(0, 60) + "..." : text);
  }

  void keys(const json& object, const std::string& what, const std::vector<std::string>& names) const {
    require(object.is_object(), what + " must be an object", object);
    for (const std::string& name : names) {
      if (!object.contains(name)) refuse(fmt::format("{} must have the key \"{}\"", what, name), "none");
    }
    for (const auto& [key, value] : object.items()) {
      const bool known = std::find(names.begin(), names.end(), key) != names.end();
      require(known, fmt::format("key of {} must be one of {}", what, fmt::join(names, ", ")), key);
    }
  }

  const json& list(const json& value, const std::string& what, size_t longest) const {
    require(value.is_array(), what + " must be a list", value);
    require(value.size() <= longest, fmt::format("{} must have at most {} entries", what, longest), value.size());
    return value;
  }

  int integer(const json& value, std::string_view what, int64_t lowest, int64_t highest) const {
    const bool fits = value.is_number_integer() && (!value.is_number_unsigned() || value <= uint64_t{INT32_MAX}) &&
                      value >= lowest && value <= highest;
    if (!fits) require(false, fmt::format("{} must be an integer {}..{}", what, lowest, highest), value);
    return value.get<int>();
  }

  RamModule module(const json& name) const {
    require(name.is_string(), "module must be a name", name);
    std::vector<std::string> names;
    for (const RamModule& module : known_) {
      if (module.name == name) return module;
      names.push_back(module.name);
    }
    require(false, fmt::format("module must be one of {}", fmt::join(names, " ")), name);
    return {};
  }

  Circuit circuit(const json& entry, const CircuitShape& shape) const {
    keys(entry, "circuit", {"modules", "registers", "stop"});
    require(entry["stop"].is_boolean(), "stop must be true or false", entry["stop"]);
    const auto size = static_cast<size_t>(shape.size());
    Circuit circuit{.modules = {}, .sources = {}, .stop = entry["stop"].get<bool>()};
    for (const json& operands : list(entry["modules"], "modules of a circuit", size)) {
      const auto i = static_cast<int>(circuit.modules.size());
      Circuit::Module wires{.kept = !operands.is_null(), .a = 0, .b = 0};
      if (wires.kept) {
        const auto count = static_cast<size_t>(shape.module(i).operands);
        list(operands, "operands of a module", 2);
        if (operands.size() != count) {
          refuse(fmt::format("operands of {} must be {}", shape.module(i).name, count),
                 fmt::to_string(operands.size()));
        }
        if (count >= 1) wires.a = source(operands[0], shape);
        if (count >= 2) wires.b = source(operands[1], shape);
      }
      circuit.modules.push_back(wires);
    }
    for (const json& value : list(entry["registers"], "registers of a circuit", 20)) {
      circuit.sources.push_back(source(value, shape));
    }
    return circuit;
  }

  uint16_t source(const json& value, const CircuitShape& shape) const {
    return static_cast<uint16_t>(integer(value, "source", 0, shape.registers + shape.size() - 1));
  }

  std::string_view who_;
  const std::vector<RamModule>& known_;
};

}  // namespace

std::string to_json(const RamProgram& program) {
  const CircuitShape& shape = program.shape();
  json names = json::array();
  for (const RamModule& module : shape.modules) names.push_back(module.name);
  std::string text = fmt::format("{{\"format\": \"{}\", \"version\": {}, \"registers\": {}, \"repeats\": {},\n",
                                 kProgramFormat, kProgramVersion, shape.registers, shape.repeats);
  text += fmt::format("\"modules\": {},\n\"circuits\": [", names.dump());
  std::string_view separator = "\n";
  for (const Circuit& circuit : program.circuits()) {
    text += fmt::format("{}{}", separator, circuit_json(shape, circuit).dump());
    separator = ",\n";
  }
  return text + fmt::format("],\n\"table\": {}}}\n", json(program.table()).dump());
}

RamProgram program_from_json(std::string_view text, std::string_view who, const std::vector<RamModule>& known) {
  ProgramReader reader(who, known);
  json root;
  try {
    root = json::parse(text);
  } catch (const json::parse_error& error) {
    reader.refuse("program must be JSON", fmt::format("a syntax error at byte {}", error.byte));
  } catch (const json::exception&) {
    reader.refuse("program must be JSON", "a number that is too large");
  }
  return reader.program(root);
}

void save_program(const RamProgram& program, const std::filesystem::path& path) {
  write_file_durably(path, to_json(program));
}

RamProgram load_program(const std::filesystem::path& path, const std::vector<RamModule>& known) {
  return program_from_json(read_text_file(path), path.string(), known);
}

}  // namespace loci
