#include "cli/output.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "loci/base/check.h"

namespace loci::cli {
namespace {

// 0, or the error's number.
int write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written < 0 && errno != EINTR) return errno;
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

}  // namespace

void print(std::string_view text) {
  const int error = write_all(STDOUT_FILENO, text);
  if (error == EPIPE) throw OutputClosed();
  if (error != 0) fail(ExitCode::resources, "standard output", "the output must be writable", std::strerror(error));
}

void print_json(const nlohmann::json& value, int indentation) {
  print(value.dump(indentation, ' ', true, nlohmann::json::error_handler_t::replace) + "\n");
}

void note(std::string_view text) {
  write_all(STDERR_FILENO, text);
}

}  // namespace loci::cli
