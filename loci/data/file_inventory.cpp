#include "loci/data/file_inventory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <map>

#include "loci/base/checksum.h"

namespace loci {
namespace {

constexpr std::string_view kInventoryStart = "loci-text-inventory 1";
constexpr size_t kNamesShown = 3;

// Takes the part of `text` before the next NUL, which it removes from `text`; nothing when there is none.
std::optional<std::string> next_field(std::string_view& text) {
  const size_t end = text.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  std::string field(text.substr(0, end));
  text.remove_prefix(end + 1);
  return field;
}

}  // namespace

// NUL ends each field, for it is the one byte that no name has.
std::string FileInventory::save() const {
  std::string text;
  const auto add = [&text](std::string_view field) { text.append(field).append(1, '\0'); };
  add(kInventoryStart);
  add(settings);
  for (const File& file : files) {
    add(file.name);
    add(fmt::to_string(file.bytes));
    add(file.sum);
  }
  return text;
}

std::optional<FileInventory> FileInventory::load(std::string_view saved) {
  if (next_field(saved) != kInventoryStart) return std::nullopt;
  FileInventory inventory;
  const auto settings = next_field(saved);
  if (!settings) return std::nullopt;
  inventory.settings = *settings;
  while (!saved.empty()) {
    const auto name = next_field(saved);
    const auto bytes = next_field(saved);
    const auto sum = next_field(saved);
    if (!sum) return std::nullopt;
    File file = {*name, 0, *sum};
    const auto [end, error] = std::from_chars(bytes->data(), bytes->data() + bytes->size(), file.bytes);
    if (error != std::errc() || end != bytes->data() + bytes->size()) return std::nullopt;
    inventory.files.push_back(std::move(file));
  }
  return inventory;
}

std::string FileInventory::key() const {
  uint64_t bytes = 0;
  for (const File& file : files) bytes += file.bytes;
  const std::string text = save();
  return fmt::format("{} {}, {} bytes, {}", files.size(), files.size() == 1 ? "file" : "files", bytes,
                     checksum(std::as_bytes(std::span(text))));
}

std::string changes_between(const FileInventory& before, const FileInventory& now) {
  std::map<std::string_view, const FileInventory::File*> known;
  for (const FileInventory::File& file : before.files) known[file.name] = &file;
  CountedNames changed, added, missing;
  for (const FileInventory::File& file : now.files) {
    const auto found = known.find(file.name);
    if (found == known.end()) {
      added.add(file.name);
      continue;
    }
    if (*found->second != file) changed.add(file.name);
    known.erase(found);
  }
  for (const auto& [name, file] : known) missing.add(file->name);
  std::vector<std::string> parts;
  if (before.settings != now.settings) parts.emplace_back("other settings of [data]");
  for (const auto& [names, what] : {std::pair(&changed, "changed"), {&added, "added"}, {&missing, "missing"}}) {
    if (names->count > 0) {
      parts.push_back(
          fmt::format("{} {} {} ({})", names->count, names->count == 1 ? "file" : "files", what, names->text()));
    }
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

void CountedNames::add(const std::string& name) {
  ++count;
  if (first.size() < kNamesShown) first.push_back(name);
}

std::string CountedNames::text() const {
  return fmt::format("{}{}", fmt::join(first, ", "), count > std::ssize(first) ? " ..." : "");
}

}  // namespace loci
