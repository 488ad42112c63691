#include "cli/arguments.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <system_error>

#include "loci/base/check.h"
#include "loci/base/nearest_word.h"

namespace loci::cli {
namespace {

// The number that all of `text` is; false where it is none, or out of the type's range.
template <typename Number>
bool is_number(const std::string& text, Number& number) {
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && rest == end;
}

template <typename Number>
CLI::Validator number_within(Number least, Number most, const std::string& what) {
  const auto check = [=](const std::string& text) {
    Number number = 0;
    if (is_number(text, number) && number >= least && number <= most) return std::string();
    return fmt::format("must be {}, got {}", what, text.empty() ? "nothing" : text);
  };
  return {check, ""};
}

std::string hint(const std::string& word, const std::vector<std::string>& known) {
  const std::string near = nearest_word(word, known);
  return near.empty() ? "" : fmt::format(" (did you mean {}?)", near);
}

// "--prompt=" as two arguments: the parser would take the next one as the value.
std::vector<std::string> split_arguments(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool empty = argument.starts_with("--") && argument.size() > 3 && argument.find('=') == argument.size() - 1;
    arguments.push_back(empty ? argument.substr(0, argument.size() - 1) : argument);
    if (empty) arguments.emplace_back();
  }
  return arguments;
}

void check_verb(const CLI::App& program, const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments[0].starts_with("-")) return;
  std::vector<std::string> verbs;
  for (const CLI::App* verb : program.get_subcommands({})) verbs.push_back(verb->get_name());
  if (std::find(verbs.begin(), verbs.end(), arguments[0]) != verbs.end()) return;
  fail(ExitCode::usage, "loci VERB", fmt::format("the verb must be one of {}", fmt::join(verbs, ", ")),
       arguments[0] + hint(arguments[0], verbs));
}

// The nearest option to the first that was not expected.
std::string option_hint(const CLI::App& program) {
  const auto chosen = program.get_subcommands();
  const std::vector<std::string> left = program.remaining(true);
  if (chosen.empty() || left.empty() || !left[0].starts_with("--")) return "";
  std::vector<std::string> names;
  for (const CLI::Option* option : chosen[0]->get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return hint(left[0].substr(0, left[0].find('=')), names);
}

}  // namespace

CLI::Validator whole_number(int64_t least, int64_t most) {
  const std::string what = most == kLargestNumber ? fmt::format("a whole number from {}", least)
                                                  : fmt::format("a whole number from {} to {}", least, most);
  return number_within<int64_t>(least, most, what);
}

CLI::Validator real_number(double least, double most) {
  return number_within<double>(least, most, fmt::format("a number from {} to {}", least, most));
}

void parse_arguments(CLI::App& program, int argc, char** argv) {
  std::vector<std::string> arguments = split_arguments(argc, argv);
  check_verb(program, arguments);
  std::reverse(arguments.begin(), arguments.end());  // as the parser wants them
  try {
    program.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    throw;
  } catch (const CLI::CallForVersion&) {
    throw;
  } catch (const CLI::ParseError& error) {
    const auto chosen = program.get_subcommands();
    throw Error(ExitCode::usage, fmt::format("{}{} (loci {}--help shows what there is)", error.what(),
                                             option_hint(program), chosen.empty() ? "" : chosen[0]->get_name() + " "));
  }
}

}  // namespace loci::cli
