// Declared as far as torch's ProcessGroupGloo.hpp needs it; torch has the classes themselves.
#pragma once

namespace gloo::transport {
class Device {
 public:
  virtual ~Device();
};
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer();
};
}  // namespace gloo::transport
