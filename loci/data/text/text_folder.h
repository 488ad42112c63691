// A folder of text files: which files, as what text, in which split. docs/data.md has the rules for users.
//
//   TextFileList list = list_text_files("books", options);         // sorted; what was left out is counted
//   TextSplit split = split_text_files(list, options, progress);   // by a hash of the names, duplicates dropped
//   std::string text = read_text(split.train[0], options);         // UTF-8
//
// A file that is alone, or of 64 KiB and more and larger than all others together, is cut at line ends into blocks of
// 64 KiB (a sixteenth of a file below 1 MiB, at least 1 KiB), and the blocks are split as files are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "loci/base/config_fields.h"
#include "loci/base/progress.h"
#include "loci/data/file_inventory.h"

namespace loci {

struct TextFolderOptions {
  std::vector<std::string> extensions;      // {".py", ".txt"}; empty: every text file
  std::string encoding_errors = "replace";  // invalid bytes become U+FFFD; or "error"
  double validation_share = 0.02;           // of the files
  int64_t split_seed = 0;
  void fields(ConfigFields& f);
};

enum class TextEncoding { utf8, utf16_little, utf16_big };

// A file, or a block of one: the bytes begin .. end-1, without a byte order mark.
struct TextFile {
  std::filesystem::path path;
  std::string file;       // its name relative to the folder, with '/'
  std::string name = {};  // the same; a block adds "#" and its number
  TextEncoding encoding = TextEncoding::utf8;
  uint64_t begin = 0;
  uint64_t end = 0;
  bool block = false;
  std::string sum = {};  // checksum of the bytes, from split_text_files()
};

struct TextFileList {
  std::vector<TextFile> files;  // by name
  // What was left out:
  CountedNames hidden;  // names that start with a dot, folders too
  CountedNames other_extension;
  CountedNames binary;  // a NUL in the first 64 KiB
  CountedNames empty;
  CountedNames links;  // links to nowhere, folders that were visited already, devices
};

// Throws Error (input) when the path is missing or unreadable, or holds no text.
TextFileList list_text_files(const std::filesystem::path& path, const TextFolderOptions& options);

// The file as UTF-8; `replaced` counts the malformed parts that became U+FFFD. Throws Error (input): with file and byte
// offset when encoding_errors = "error", and when the bytes are no longer those that split_text_files() saw.
std::string read_text(const TextFile& file, const TextFolderOptions& options, int64_t* replaced = nullptr);

struct TextSplit {
  std::vector<TextFile> train;
  std::vector<TextFile> validation;
  CountedNames duplicates;  // files left out because an earlier one has the same bytes
  FileInventory inventory;  // of the whole list
};

// Reads every file. A file is for validation when XXH3-128(name, split_seed) falls under validation_share; neither part
// stays empty. Throws Error (input) when there are not two files.
TextSplit split_text_files(const TextFileList& list, const TextFolderOptions& options, ProgressLine& progress);

}  // namespace loci
