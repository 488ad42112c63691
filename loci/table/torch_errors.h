// Errors of Loci as those that torch turns into exceptions of Python.
#pragma once

#include <c10/util/Exception.h>

#include "loci/base/check.h"

namespace loci {

// Runs `action`; an Error (usage) becomes c10::ValueError (ValueError in Python), any other Error c10::Error
// (RuntimeError).
template <class Action>
auto with_torch_errors(const Action& action) {
  try {
    return action();
  } catch (const Error& error) {
    TORCH_CHECK_VALUE(error.code() != ExitCode::usage, error.what());
    TORCH_CHECK(false, error.what());
  }
}

}  // namespace loci
