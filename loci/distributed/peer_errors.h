// What torch.distributed throws as Error (peer): one line that names the rank.
#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <string>

#include "loci/base/check.h"

namespace loci {

// Runs `action`, which waits for other ranks.
template <class Action>
auto with_peer_errors(const std::string& who, const std::string& expected, const Action& action) {
  const auto first_line = [](const std::string& text) { return text.substr(0, text.find('\n')); };
  try {
    return action();
  } catch (const Error&) {
    throw;
  } catch (const c10::Error& error) {
    fail(ExitCode::peer, who, expected, first_line(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    fail(ExitCode::peer, who, expected, first_line(error.what()));
  }
}

}  // namespace loci
