// Entities of a graph of facts, each in three views: its name, its gloss, and the names of its neighbours. Related are
// those with the same tail of a relation, such as the words of WordNet with the same hypernym.
//
//   entities   a line each: ID, tab, "name, gloss"
//   triples    a line each: head ID, tab, relation, tab, tail ID
//
// An entity belongs to a group, its tail under data.relations. One with several tails, and groups of fewer than
// data.least entities, are left out. Neighbours are the entities that any other relation ties to it, in either
// direction, in the order of the files.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/data/file_inventory.h"

namespace loci {

// [data]
struct EntityViewsOptions {
  std::string entities = "entity2text.txt";
  std::vector<std::string> triples = {"train.tsv", "dev.tsv", "test.tsv"};
  std::vector<std::string> relations = {"_hypernym", "_instance_hypernym"};
  int64_t least = 20;
  double cold_share = 0.2;
  int64_t split_seed = 0;
  int64_t words = 32;  // of a view that are used, parts of words among them
  void fields(ConfigFields& f);
  void check() const;  // throws Error (usage)
};

struct EntityViews {
  static constexpr int64_t kViews = 3;  // name, gloss, neighbours
  struct Entity {
    std::string id;
    int64_t group = 0;
    std::array<std::string, kViews> views;  // empty: missing
  };
  std::vector<Entity> entities;     // warm ones first
  int64_t warm = 0;                 // the others are held out, by a hash of their ID
  std::vector<std::string> groups;  // names of the tails
  FileInventory inventory;
};

// Throws Error (input) with file and line for what is malformed, and for a folder without two groups.
EntityViews read_entity_views(const std::filesystem::path& folder, const EntityViewsOptions& options);

// Words of a text, in lower case: letters, digits and bytes beyond ASCII.
std::vector<std::string> words_of(std::string_view text);
// Numbers 1 .. rows - 1 that stand for the words of a text, by hash, and with `parts` also for the parts of three bytes
// of "<word>"; each number once, at most `most`. rows >= 2.
std::vector<int64_t> hashed_words(std::string_view text, bool parts, int64_t rows, int64_t most);

}  // namespace loci
