// Columns of text: the first flush left, the others flush right.
#pragma once

#include <string>
#include <vector>

namespace loci {

class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  // Lines that end in '\n'; columns where every row is empty are left out.
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Breaks a line at spaces so that no line has more than 100 columns, where its words allow it; the lines after the
// first begin with `indent` spaces. Ends in '\n'.
std::string wrapped(const std::string& line, size_t indent);

}  // namespace loci
