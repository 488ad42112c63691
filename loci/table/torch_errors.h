// Errors of Loci as those that torch turns into exceptions of Python.
#pragma once

#include <c10/util/Exception.h>

#include <string>
#include <utility>
#include <vector>

#include "loci/base/check.h"

namespace loci {

// Runs `action`; an Error (usage or input) becomes c10::ValueError (ValueError in Python), any other Error c10::Error
// (RuntimeError).
template <class Action>
auto with_torch_errors(const Action& action) {
  try {
    return action();
  } catch (const Error& error) {
    TORCH_CHECK_VALUE(error.code() != ExitCode::usage && error.code() != ExitCode::input, error.what());
    TORCH_CHECK(false, error.what());
  }
}

// The choice that `word` names; throws Error (usage).
template <class Choice>
Choice choice_of_word(const char* who, const char* what, const std::vector<std::pair<std::string, Choice>>& words,
                      const std::string& word) {
  std::string known;
  for (const auto& [name, choice] : words) {
    if (name == word) return choice;
    known += known.empty() ? name : ", " + name;
  }
  fail(ExitCode::usage, who, fmt::format("{} must be one of {}", what, known), word);
}

}  // namespace loci
