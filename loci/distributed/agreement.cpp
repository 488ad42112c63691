#include "loci/distributed/agreement.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <new>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string_view>

#include "loci/base/check.h"

namespace loci {
namespace {

Error with_code(ExitCode code, const std::string& message) {
  return {code, message.substr(0, message.find('\n'))};
}

// The exception that is being handled, as an Error.
Error caught() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return {ExitCode::resources, "memory: there must be enough, got none"};
  } catch (const c10::Error& error) {
    // Torch has one type for everything: missing memory is known by its words.
    const std::string message = error.what_without_backtrace();
    const bool memory = dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
                        message.find("DefaultCPUAllocator: ") != std::string::npos;
    return with_code(memory ? ExitCode::resources : ExitCode::bug, message);
  } catch (const std::exception& error) {
    return with_code(ExitCode::bug, error.what());
  } catch (...) {
    return {ExitCode::bug, "an exception of an unknown type"};
  }
}

// "CODE MESSAGE"; "" where nothing went wrong.
std::string report_of(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (...) {
    const Error error = caught();
    if (error.code() == ExitCode::peer) throw error;
    return std::to_string(static_cast<int>(error.code())) + " " + error.what();
  }
}

}  // namespace

std::vector<std::string> gather_texts(const Ranks& ranks, const std::string& text) {
  if (ranks.size == 1) return {text};
  const auto size = static_cast<size_t>(ranks.size);
  const auto length = static_cast<int64_t>(text.size());
  std::vector<int64_t> lengths;
  for (const auto& row : swap_numbers(ranks, std::vector<std::vector<int64_t>>(size, {length}))) {
    lengths.push_back(row.front());
  }
  const at::Tensor sent = at::empty({ranks.size * length}, at::kByte);
  auto* out = sent.mutable_data_ptr<uint8_t>();
  for (size_t p = 0; p < size; ++p) out = std::copy(text.begin(), text.end(), out);
  const at::Tensor received = all_to_all(ranks, sent, std::vector<int64_t>(size, length), lengths);
  std::vector<std::string> texts;
  const auto* in = received.const_data_ptr<uint8_t>();
  for (const int64_t count : lengths) {
    texts.emplace_back(in, in + count);
    in += count;
  }
  return texts;
}

void together(const Ranks& ranks, const std::function<void()>& action) {
  if (ranks.size == 1) return action();
  const std::vector<std::string> reports = gather_texts(ranks, report_of(action));
  for (size_t p = 0; p < reports.size(); ++p) {
    if (reports[p].empty()) continue;
    int code = 0;
    const auto [rest, failure] = std::from_chars(reports[p].data(), reports[p].data() + reports[p].size(), code);
    const std::string message = "rank " + std::to_string(p) + ":" + std::string(rest);
    throw Error(failure == std::errc() ? static_cast<ExitCode>(code) : ExitCode::bug, message);
  }
}

}  // namespace loci
