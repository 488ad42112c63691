#include "loci/train/text_table.h"

#include <algorithm>

namespace loci {
namespace {

constexpr size_t kMostColumns = 100;

// Code points: a "±" is one column.
size_t columns_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

std::string wrapped(const std::string& line, size_t indent) {
  std::string text;
  std::string current;
  for (size_t begin = 0; begin < line.size();) {
    size_t end = line.find(' ', line.find_first_not_of(' ', begin));
    if (end == std::string::npos) end = line.size();
    const std::string word = line.substr(begin, end - begin);  // with the spaces before it
    if (!current.empty() && columns_of(current) + columns_of(word) > kMostColumns) {
      text += current + '\n';
      current = std::string(indent, ' ') + word.substr(word.find_first_not_of(' '));
    } else {
      current += word;
    }
    begin = end;
  }
  return text + current + '\n';
}

std::string TextTable::text() const {
  std::vector<size_t> width;
  std::vector<bool> used;
  for (size_t r = 0; r < rows_.size(); ++r) {
    width.resize(std::max(width.size(), rows_[r].size()));
    used.resize(width.size());
    for (size_t c = 0; c < rows_[r].size(); ++c) {
      width[c] = std::max(width[c], columns_of(rows_[r][c]));
      if (r > 0 && !rows_[r][c].empty()) used[c] = true;
    }
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      if (!used[c]) continue;
      const std::string padding(width[c] - columns_of(row[c]), ' ');
      line += c == 0 ? row[c] + padding : "  " + padding + row[c];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  return text;
}

}  // namespace loci
