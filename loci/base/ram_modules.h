// The modules of a random-access machine: what it can do with two numbers, and with its tape.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace loci {

struct RamModule {
  enum class Role { pure, read, write };

  std::string name;  // of letters, digits and underscores
  int operands = 0;  // 0, 1 or 2
  Role role = Role::pure;
  // Of a pure module: values 0 .. M-1 in, one value 0 .. M-1 out.
  uint32_t (*evaluate)(uint32_t a, uint32_t b, uint32_t M) = nullptr;
  std::string text = {};  // in pseudo-code, with {a} and {b}: "{a}+{b}"
  std::string cpp = {};   // as a C++ expression in uint32_t a, b, M
};

// READ ZERO ONE TWO INC ADD SUB DEC LT LE EQ MIN MAX WRITE, the modules of the paper in its order.
const std::vector<RamModule>& standard_modules();

}  // namespace loci
