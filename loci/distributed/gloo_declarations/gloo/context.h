// Declared as far as torch's ProcessGroupGloo.hpp needs it; torch has the class itself.
#pragma once

#include <chrono>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};
}  // namespace gloo
