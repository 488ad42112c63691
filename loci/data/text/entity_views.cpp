#include "loci/data/text/entity_views.h"

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <unordered_map>

#include "loci/base/check.h"
#include "loci/base/checksum.h"
#include "loci/base/durable_file.h"
#include "loci/base/random.h"
#include "loci/data/held_out.h"

namespace loci {
namespace {

std::string read_listed(const std::filesystem::path& folder, const std::string& name, FileInventory& inventory) {
  std::string text = read_text_file(folder / name);
  inventory.files.push_back({name, text.size(), checksum(std::as_bytes(std::span(text)))});
  return text;
}

// Calls `take(columns)` for each line that is not empty. Throws Error (input) for another number of columns.
template <class Take>
void for_each_row(const std::filesystem::path& path, std::string_view text, size_t columns, const Take& take) {
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    std::vector<std::string_view> row;
    for (size_t begin = 0; begin <= line.size();) {
      const size_t tab = std::min(line.find('\t', begin), line.size());
      row.push_back(line.substr(begin, tab - begin));
      begin = tab + 1;
    }
    if (row.size() != columns) {
      fail(ExitCode::input, fmt::format("{}:{}", path.string(), number),
           fmt::format("a line must have {} columns between tabs", columns), fmt::to_string(row.size()));
    }
    take(row, number);
  }
}

struct KnownEntity {
  std::string id, name, gloss;
  std::vector<int64_t> tails, neighbours;  // of data.relations, and of the others
};

struct EntityGraph {
  std::vector<KnownEntity> entities;
  std::unordered_map<std::string, int64_t> places;  // of IDs
};

void add_once(std::vector<int64_t>& list, int64_t value) {
  if (std::find(list.begin(), list.end(), value) == list.end()) list.push_back(value);
}

EntityGraph read_entity_graph(const std::filesystem::path& folder, const EntityViewsOptions& options,
                              FileInventory& inventory) {
  EntityGraph graph;
  const std::filesystem::path path = folder / options.entities;
  for_each_row(path, read_listed(folder, options.entities, inventory), 2, [&](const auto& row, int64_t number) {
    const std::string id(row[0]);
    if (!graph.places.emplace(id, std::ssize(graph.entities)).second) {
      fail(ExitCode::input, fmt::format("{}:{}", path.string(), number), "an entity must have one line", id);
    }
    const size_t comma = std::min(row[1].find(", "), row[1].size());
    const size_t gloss = std::min(comma + 2, row[1].size());
    graph.entities.push_back({id, std::string(row[1].substr(0, comma)), std::string(row[1].substr(gloss)), {}, {}});
  });
  const std::set<std::string> relations(options.relations.begin(), options.relations.end());
  for (const std::string& name : options.triples) {
    const std::filesystem::path file = folder / name;
    for_each_row(file, read_listed(folder, name, inventory), 3, [&](const auto& row, int64_t number) {
      const auto place = [&](std::string_view id) {
        const auto found = graph.places.find(std::string(id));
        if (found != graph.places.end()) return found->second;
        fail(ExitCode::input, fmt::format("{}:{}", file.string(), number),
             fmt::format("entities must be those of {}", options.entities), id);
      };
      const int64_t head = place(row[0]), tail = place(row[2]);
      auto& entities = graph.entities;
      if (relations.contains(std::string(row[1]))) {
        add_once(entities[static_cast<size_t>(head)].tails, tail);
      } else if (head != tail) {
        add_once(entities[static_cast<size_t>(head)].neighbours, tail);
        add_once(entities[static_cast<size_t>(tail)].neighbours, head);
      }
    });
  }
  return graph;
}

EntityViews::Entity views_of(const EntityGraph& graph, const KnownEntity& entity, int64_t group) {
  std::string neighbours;
  for (const int64_t other : entity.neighbours) {
    neighbours += graph.entities[static_cast<size_t>(other)].name + "; ";
  }
  return {entity.id, group, {entity.name, entity.gloss, neighbours}};
}

}  // namespace

void EntityViewsOptions::fields(ConfigFields& f) {
  f.field("entities", entities, "file of a line for each entity: ID, tab, \"name, gloss\"");
  f.field("triples", triples, "files of lines: head ID, tab, relation, tab, tail ID");
  f.field("relations", relations, "entities with the same tail of one of these are related");
  f.field("least", least, "smallest number of entities with the same tail", {.minimum = 4, .maximum = 1 << 20});
  f.field("cold_share", cold_share, "share of the entities that are held out", {.minimum = 0.01, .maximum = 0.9});
  f.field("split_seed", split_seed, "chooses which entities are held out");
  f.field("words", words, "words and parts of words of a view that are used", {.minimum = 1, .maximum = 1024});
}

void EntityViewsOptions::check() const {
  const auto need = [](bool holds, const char* key) {
    if (!holds) fail(ExitCode::usage, "config", fmt::format("{} must be given", key), "nothing");
  };
  need(!entities.empty(), "data.entities");
  need(!triples.empty(), "data.triples");
  need(!relations.empty(), "data.relations");
}

EntityViews read_entity_views(const std::filesystem::path& folder, const EntityViewsOptions& options) {
  options.check();
  EntityViews result;
  const EntityGraph graph = read_entity_graph(folder, options, result.inventory);
  std::map<int64_t, int64_t> sizes;  // of groups, by their tails
  for (const KnownEntity& entity : graph.entities) {
    if (entity.tails.size() == 1) ++sizes[entity.tails.front()];
  }
  std::map<int64_t, int64_t> group_of;
  for (const auto& [tail, size] : sizes) {
    if (size < options.least) continue;
    group_of[tail] = std::ssize(result.groups);
    result.groups.push_back(graph.entities[static_cast<size_t>(tail)].name);
  }
  if (result.groups.size() < 2) {
    fail(ExitCode::input, folder.string(),
         fmt::format("there must be two groups of at least {} entities with the same tail of data.relations",
                     options.least),
         fmt::to_string(result.groups.size()));
  }
  std::vector<std::string> ids;
  std::vector<EntityViews::Entity> all, cold;
  for (const KnownEntity& entity : graph.entities) {
    if (entity.tails.size() != 1 || !group_of.contains(entity.tails.front())) continue;
    all.push_back(views_of(graph, entity, group_of[entity.tails.front()]));
    ids.push_back(entity.id);
  }
  const std::vector<bool> held = held_out(ids, options.cold_share, options.split_seed);
  for (size_t i = 0; i < all.size(); ++i) (held[i] ? cold : result.entities).push_back(std::move(all[i]));
  result.warm = std::ssize(result.entities);
  std::move(cold.begin(), cold.end(), std::back_inserter(result.entities));
  return result;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  const auto end = [&] {
    if (!word.empty()) words.push_back(std::move(word));
    word.clear();
  };
  for (const char c : text) {
    const bool upper = c >= 'A' && c <= 'Z', letter = upper || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (letter || static_cast<unsigned char>(c) >= 0x80) {
      word += static_cast<char>(upper ? c - 'A' + 'a' : c);
    } else {
      end();
    }
  }
  end();
  return words;
}

std::vector<int64_t> hashed_words(std::string_view text, bool parts, int64_t rows, int64_t most) {
  if (rows < 2) fail(ExitCode::bug, "hashed_words", "rows must be at least 2", fmt::to_string(rows));
  std::vector<int64_t> numbers;
  const auto add = [&](const std::string& feature) {
    const uint64_t row = stream_of(feature) % static_cast<uint64_t>(rows - 1) + 1;
    if (std::ssize(numbers) < most) add_once(numbers, static_cast<int64_t>(row));
  };
  const std::vector<std::string> words = words_of(text);
  for (const std::string& word : words) add("word " + word);
  if (!parts) return numbers;
  for (const std::string& word : words) {
    const std::string marked = "<" + word + ">";
    for (size_t i = 0; i + 3 <= marked.size(); ++i) add("part " + marked.substr(i, 3));
  }
  return numbers;
}

}  // namespace loci
