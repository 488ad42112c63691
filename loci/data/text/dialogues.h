// Dialogues and meetings with summaries, as their publishers give them. docs/data.md has the rules for users.
//
//   DialogSum   .jsonl, an object a line: "dialogue" with a line for each utterance, and "summary", or "summary1",
//               "summary2" ... of several writers
//   QMSum       .json, a meeting a file, or .jsonl, a meeting a line: "meeting_transcripts" of speakers and contents,
//               and "specific_query_list" of queries, answers and the utterances that they are about. Each query is a
//               dialogue of these utterances; queries about the whole meeting are left out
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/data/file_inventory.h"

namespace loci {

// [data]
struct DialogueOptions {
  // Files, or folders of .json and .jsonl files, relative to the data folder.
  std::vector<std::string> train = {"dialogsum/DialogSum_Data/dialogsum.dev.jsonl"};
  std::vector<std::string> test = {"dialogsum/DialogSum_Data/dialogsum.test.jsonl"};
  void fields(ConfigFields& f);
};

struct Dialogue {
  std::string name;                     // "dev_0", "Bed003.json query 2"
  std::string query;                    // or none
  std::vector<std::string> sentences;   // the first of an utterance begins with its speaker
  std::vector<std::string> references;  // summaries by people, at least one
};

struct Dialogues {
  std::vector<Dialogue> train, test;
  FileInventory inventory;
};

// Throws Error (input) with file and line for what is malformed, (usage) for a path that leaves the folder.
Dialogues read_dialogues(const std::filesystem::path& folder, const DialogueOptions& options);

// Cut behind '.', '?' and '!' that a space follows; without spaces at the ends; empty ones are left out.
std::vector<std::string> sentences_of(std::string_view utterance);

}  // namespace loci
