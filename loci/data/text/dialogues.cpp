#include "loci/data/text/dialogues.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <span>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/base/durable_file.h"
#include "loci/data/folder_files.h"

namespace loci {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string trimmed(std::string_view text) {
  constexpr std::string_view spaces = " \t\r\n";
  const size_t begin = text.find_first_not_of(spaces);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(spaces) - begin + 1));
}

void add_utterance(Dialogue& dialogue, std::string_view text) {
  for (std::string& sentence : sentences_of(text)) dialogue.sentences.push_back(std::move(sentence));
}

Dialogue dialogue_of(const json& record, const std::string& who) {
  Dialogue dialogue;
  dialogue.name = record.value("fname", who);
  const auto text = record.at("dialogue").get<std::string>();
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    add_utterance(dialogue, std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
  }
  if (record.contains("summary")) dialogue.references.push_back(trimmed(record.at("summary").get<std::string>()));
  for (int64_t i = 1; record.contains(fmt::format("summary{}", i)); ++i) {
    dialogue.references.push_back(trimmed(record.at(fmt::format("summary{}", i)).get<std::string>()));
  }
  return dialogue;
}

// The utterances of a span [first, last], which the publishers write as text.
std::pair<size_t, size_t> span_of(const json& span, size_t utterances, const std::string& who) {
  size_t ends[2] = {};
  for (size_t i = 0; i < 2; ++i) {
    const json& end = span.at(i);
    const std::string text = end.is_string() ? end.get<std::string>() : end.dump();
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), ends[i]);
    if (error != std::errc() || stop != text.data() + text.size()) {
      fail(ExitCode::input, who, "a relevant_text_span must be two numbers of utterances", span.dump());
    }
  }
  // Some spans end one behind the last utterance.
  const size_t last = utterances == 0 ? 0 : std::min(ends[1], utterances - 1);
  if (ends[0] > last || utterances == 0) {
    fail(ExitCode::input, who, fmt::format("a relevant_text_span must be of the {} utterances", utterances),
         span.dump());
  }
  return {ends[0], last};
}

void add_meeting(std::vector<Dialogue>& dialogues, const json& record, const std::string& who) {
  const json& utterances = record.at("meeting_transcripts");
  int64_t number = 0;
  for (const json& query : record.at("specific_query_list")) {
    Dialogue dialogue;
    dialogue.name = fmt::format("{} query {}", who, ++number);
    dialogue.query = trimmed(query.at("query").get<std::string>());
    for (const json& span : query.at("relevant_text_span")) {
      const auto [first, last] = span_of(span, utterances.size(), dialogue.name);
      for (size_t i = first; i <= last; ++i) {
        add_utterance(dialogue, utterances.at(i).at("speaker").get<std::string>() + ": " +
                                    utterances.at(i).at("content").get<std::string>());
      }
    }
    dialogue.references = {trimmed(query.at("answer").get<std::string>())};
    dialogues.push_back(std::move(dialogue));
  }
}

void add_record(std::vector<Dialogue>& dialogues, std::string_view text, const std::string& who) {
  const size_t before = dialogues.size();
  try {
    const json record = json::parse(text);
    if (record.contains("meeting_transcripts")) {
      add_meeting(dialogues, record, who);
    } else {
      dialogues.push_back(dialogue_of(record, who));
    }
  } catch (const json::exception& error) {
    fail(ExitCode::input, who, "a record must be a dialogue or a meeting with summaries", error.what());
  }
  for (size_t i = before; i < dialogues.size(); ++i) {
    const Dialogue& dialogue = dialogues[i];
    const bool empty = std::any_of(dialogue.references.begin(), dialogue.references.end(),
                                   [](const std::string& reference) { return reference.empty(); });
    if (dialogue.sentences.empty() || dialogue.references.empty() || empty) {
      fail(ExitCode::input, who, "a dialogue must have a sentence and its summaries text",
           fmt::format("{} sentences and {} summaries", dialogue.sentences.size(), dialogue.references.size()));
    }
  }
}

std::vector<Dialogue> read_part(const fs::path& folder, const std::vector<std::string>& names, FileInventory& seen) {
  std::vector<Dialogue> dialogues;
  const auto read = [&](const std::string& name) {
    const fs::path path = folder / name;
    const std::string text = read_text_file(path);
    seen.files.push_back({name, text.size(), checksum(std::as_bytes(std::span(text)))});
    if (!has_extension(path, {"jsonl"})) return add_record(dialogues, text, path.string());
    int64_t line = 1;
    for (size_t begin = 0; begin < text.size(); ++line) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      const std::string_view record = std::string_view(text).substr(begin, end - begin);
      if (record.find_first_not_of(" \t\r") != std::string_view::npos) {
        add_record(dialogues, record, fmt::format("{}:{}", path.string(), line));
      }
      begin = end + 1;
    }
  };
  for (const std::string& name : names) {
    const fs::path relative = fs::path(name).lexically_normal();
    if (name.empty() || relative.is_absolute() || *relative.begin() == "..") {
      fail(ExitCode::usage, "config", "data.train and data.test must be paths in the data folder", name);
    }
    if (!fs::is_directory(folder / relative)) {
      read(relative.generic_string());
      continue;
    }
    for (const FolderFiles::File& file : folder_files(folder / relative).files) {
      if (has_extension(file.path, {"json", "jsonl"})) read((relative / file.name).generic_string());
    }
  }
  return dialogues;
}

}  // namespace

void DialogueOptions::fields(ConfigFields& f) {
  f.field("train", train, "files, or folders of .json and .jsonl files, of the data folder to train on");
  f.field("test", test, "the same, to measure on");
}

std::vector<std::string> sentences_of(std::string_view utterance) {
  std::vector<std::string> sentences;
  size_t begin = 0;
  for (size_t i = 0; i < utterance.size(); ++i) {
    const bool ends = utterance[i] == '.' || utterance[i] == '?' || utterance[i] == '!';
    const bool last = i + 1 == utterance.size();
    if (!last && !(ends && utterance[i + 1] == ' ')) continue;
    std::string sentence = trimmed(utterance.substr(begin, i + 1 - begin));
    if (!sentence.empty()) sentences.push_back(std::move(sentence));
    begin = i + 1;
  }
  return sentences;
}

Dialogues read_dialogues(const fs::path& folder, const DialogueOptions& options) {
  Dialogues dialogues;
  dialogues.train = read_part(folder, options.train, dialogues.inventory);
  dialogues.test = read_part(folder, options.test, dialogues.inventory);
  if (dialogues.train.empty() || dialogues.test.empty()) {
    fail(ExitCode::input, folder.string(), "data.train and data.test must have a dialogue each",
         fmt::format("{} and {}", dialogues.train.size(), dialogues.test.size()));
  }
  std::sort(dialogues.inventory.files.begin(), dialogues.inventory.files.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return dialogues;
}

}  // namespace loci
