#include "loci/data/text/labelled_texts.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string_view>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/base/durable_file.h"

namespace loci {
namespace {

struct TextRow {
  int64_t line = 0;  // from 1
  std::string text, pair, label;
};

bool is_number(const std::string& column) {
  return !column.empty() && column.size() < 6 && column.front() != '0' &&
         std::all_of(column.begin(), column.end(), [](char c) { return c >= '0' && c <= '9'; });
}

[[noreturn]] void refuse_line(const std::filesystem::path& path, int64_t line, const std::string& expected,
                              const std::string& got) {
  fail(ExitCode::input, fmt::format("{}:{}", path.string(), line), expected, got);
}

// Calls `take(line number, line)` for each line that is not empty.
void for_each_line(std::string_view text, const std::function<void(int64_t, std::string_view)>& take) {
  constexpr std::string_view mark = "\xEF\xBB\xBF";  // of UTF-8
  if (text.starts_with(mark)) text.remove_prefix(mark.size());
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) take(number, line);
  }
}

std::vector<std::string> columns_of(std::string_view line) {
  std::vector<std::string> columns;
  for (size_t begin = 0; begin <= line.size();) {
    const size_t end = std::min(line.find('\t', begin), line.size());
    columns.emplace_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return columns;
}

struct WantedColumn {
  const char* key;  // of [data]
  std::string name;
  std::string TextRow::* value;
};

std::vector<WantedColumn> wanted_columns(const LabelledTextOptions& options, bool labelled) {
  std::vector<WantedColumn> wanted = {{"data.text", options.text, &TextRow::text}};
  if (!options.pair.empty()) wanted.push_back({"data.pair", options.pair, &TextRow::pair});
  if (labelled) wanted.push_back({"data.label", options.label, &TextRow::label});
  return wanted;
}

std::vector<TextRow> read_columns(const std::filesystem::path& path, const std::string& text,
                                  const std::vector<WantedColumn>& wanted) {
  std::vector<TextRow> rows;
  std::vector<size_t> places;  // of the wanted columns
  size_t count = 0;
  for_each_line(text, [&](int64_t number, std::string_view line) {
    const std::vector<std::string> columns = columns_of(line);
    if (places.empty()) {
      count = columns.size();
      const bool header = !is_number(wanted.front().name);
      for (const WantedColumn& column : wanted) {
        const auto found = std::find(columns.begin(), columns.end(), column.name);
        const size_t place = header ? static_cast<size_t>(found - columns.begin()) : std::stoull(column.name) - 1;
        if (place >= count) {
          refuse_line(path, number, fmt::format("{} \"{}\" must be a column", column.key, column.name),
                      fmt::format("{} columns: {}", count, line.substr(0, 80)));
        }
        places.push_back(place);
      }
      if (header) return;
    }
    if (columns.size() != count) {
      refuse_line(path, number, fmt::format("a line must have {} columns between tabs, as the first", count),
                  fmt::to_string(columns.size()));
    }
    TextRow row{number, {}, {}, {}};
    for (size_t i = 0; i < wanted.size(); ++i) row.*wanted[i].value = columns[places[i]];
    rows.push_back(std::move(row));
  });
  return rows;
}

// A string, or the text of a whole number or of true and false: what labels are.
std::optional<std::string> word_of_json(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_integer() || value.is_boolean()) return value.dump();
  return std::nullopt;
}

std::vector<TextRow> read_objects(const std::filesystem::path& path, const std::string& text,
                                  const std::vector<WantedColumn>& wanted) {
  std::vector<TextRow> rows;
  for_each_line(text, [&](int64_t number, std::string_view line) {
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object()) {
      refuse_line(path, number, "a line must be a JSON object", std::string(line.substr(0, 80)));
    }
    TextRow row{number, {}, {}, {}};
    for (const WantedColumn& column : wanted) {
      const auto found = object.find(column.name);
      const auto word = found == object.end() ? std::nullopt : word_of_json(*found);
      if (!word || (column.value != &TextRow::label && !found->is_string())) {
        refuse_line(path, number, fmt::format("\"{}\" must be a text", column.name),
                    found == object.end() ? "nothing" : found->type_name());
      }
      row.*column.value = *word;
    }
    rows.push_back(std::move(row));
  });
  return rows;
}

std::vector<TextRow> read_rows(const std::filesystem::path& path, const std::string& text,
                               const LabelledTextOptions& options, bool labelled) {
  const std::vector<WantedColumn> wanted = wanted_columns(options, labelled);
  std::vector<TextRow> rows =
      path.extension() == ".jsonl" ? read_objects(path, text, wanted) : read_columns(path, text, wanted);
  if (rows.empty()) fail(ExitCode::input, path.string(), "the file must hold texts", "none");
  for (const TextRow& row : rows) {
    for (const WantedColumn& column : wanted) {
      if ((row.*column.value).empty()) {
        refuse_line(path, row.line, fmt::format("{} \"{}\" must not be empty", column.key, column.name), "nothing");
      }
    }
  }
  return rows;
}

LabelledText text_of(TextRow& row) {
  return {std::move(row.text), std::move(row.pair), -1};
}

}  // namespace

void LabelledTextOptions::fields(ConfigFields& f) {
  f.field("train", train, "file of the training part, .tsv or .jsonl, in the folder of --data");
  f.field("validation", validation, "file of the part that arms are compared by");
  f.field("test", test, "file of a part that is measured too; \"\": none");
  f.field("text", text, "column of the text: a name of the header or key, or a number where there is no header");
  f.field("pair", pair, "column of the second text; \"\": none");
  f.field("label", label, "column of the label");
}

void LabelledTextOptions::check() const {
  for (const auto& [key, value] : {std::pair("train", train), std::pair("validation", validation),
                                   std::pair("text", text), std::pair("label", label)}) {
    if (value.empty()) fail(ExitCode::usage, "config", fmt::format("data.{} must be given", key), "\"\"");
  }
  if (is_number(text) != is_number(label) || (!pair.empty() && is_number(pair) != is_number(text))) {
    fail(ExitCode::usage, "config", "data.text, data.pair and data.label must be all numbers or all names",
         fmt::format("\"{}\", \"{}\" and \"{}\"", text, pair, label));
  }
}

LabelledTexts read_labelled_texts(const std::filesystem::path& folder, const LabelledTextOptions& options) {
  LabelledTexts result;
  result.inventory.settings = fmt::format("{}\n{}\n{}\n", options.text, options.pair, options.label);
  const auto read = [&](const std::string& name) {
    const std::filesystem::path path = folder / name;
    const std::string text = read_text_file(path);
    result.inventory.files.push_back({name, text.size(), checksum(std::as_bytes(std::span(text)))});
    return read_rows(path, text, options, true);
  };
  std::vector<TextRow> rows = read(options.train);
  for (const TextRow& row : rows) result.classes.push_back(row.label);
  std::sort(result.classes.begin(), result.classes.end());
  result.classes.erase(std::unique(result.classes.begin(), result.classes.end()), result.classes.end());
  if (result.classes.size() < 2) {
    fail(ExitCode::input, (folder / options.train).string(), "texts must be of at least two labels",
         result.classes.front());
  }
  const auto add = [&](std::vector<TextRow>& part, const std::string& name, std::vector<LabelledText>& texts) {
    for (TextRow& row : part) {
      const auto found = std::lower_bound(result.classes.begin(), result.classes.end(), row.label);
      if (found == result.classes.end() || *found != row.label) {
        refuse_line(folder / name, row.line, fmt::format("the label must be one of those in {}", options.train),
                    row.label);
      }
      texts.push_back(text_of(row));
      texts.back().label = found - result.classes.begin();
    }
  };
  add(rows, options.train, result.train);
  for (const auto& [name, texts] :
       {std::pair(options.validation, &result.validation), std::pair(options.test, &result.test)}) {
    if (name.empty()) continue;
    rows = read(name);
    add(rows, name, *texts);
  }
  return result;
}

std::vector<LabelledText> read_unlabelled_texts(const std::filesystem::path& file, const LabelledTextOptions& options) {
  std::vector<TextRow> rows = read_rows(file, read_text_file(file), options, false);
  std::vector<LabelledText> texts;
  for (TextRow& row : rows) texts.push_back(text_of(row));
  return texts;
}

std::vector<int64_t> tokens_of_text(const Tokenizer& tokenizer, const LabelledText& text, int64_t context) {
  std::vector<int32_t> first = tokenizer.encode(text.text), second = tokenizer.encode(text.pair);
  const bool is_pair = !text.pair.empty();
  const int64_t ends = is_pair ? 3 : 2, least = least_text_tokens(is_pair);
  if (context < least) {
    fail(ExitCode::usage, "text", fmt::format("the context must have at least {} tokens", least),
         fmt::to_string(context));
  }
  while (std::ssize(first) + std::ssize(second) + ends > context) {
    std::vector<int32_t>& longer = first.size() >= second.size() ? first : second;
    const auto over = std::ssize(first) + std::ssize(second) + ends - context;
    const auto difference = std::abs(std::ssize(first) - std::ssize(second));
    longer.resize(longer.size() - static_cast<size_t>(std::clamp<int64_t>(difference, 1, over)));
  }
  std::vector<int64_t> tokens = {tokenizer.end_of_text()};
  tokens.insert(tokens.end(), first.begin(), first.end());
  tokens.push_back(tokenizer.end_of_text());
  if (!is_pair) return tokens;
  tokens.insert(tokens.end(), second.begin(), second.end());
  tokens.push_back(tokenizer.end_of_text());
  return tokens;
}

}  // namespace loci
