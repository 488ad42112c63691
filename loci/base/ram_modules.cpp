#include "loci/base/ram_modules.h"

#include <algorithm>

namespace loci {

const std::vector<RamModule>& standard_modules() {
  using Role = RamModule::Role;
  using V = uint32_t;
  static const std::vector<RamModule> modules = {
      {"READ", 1, Role::read},
      {"ZERO", 0, Role::pure, [](V, V, V) -> V { return 0; }, "0", "0"},
      {"ONE", 0, Role::pure, [](V, V, V) -> V { return 1; }, "1", "1"},
      {"TWO", 0, Role::pure, [](V, V, V) -> V { return 2; }, "2", "2"},
      {"INC", 1, Role::pure, [](V a, V, V M) -> V { return a + 1 == M ? 0 : a + 1; }, "{a}+1",
       "a + 1 == M ? 0 : a + 1"},
      {"ADD", 2, Role::pure, [](V a, V b, V M) -> V { return a >= M - b ? a - (M - b) : a + b; }, "{a}+{b}",
       "a >= M - b ? a - (M - b) : a + b"},
      {"SUB", 2, Role::pure, [](V a, V b, V M) -> V { return a >= b ? a - b : a + (M - b); }, "{a}-{b}",
       "a >= b ? a - b : a + (M - b)"},
      {"DEC", 1, Role::pure, [](V a, V, V M) -> V { return a == 0 ? M - 1 : a - 1; }, "{a}-1",
       "a == 0 ? M - 1 : a - 1"},
      {"LT", 2, Role::pure, [](V a, V b, V) -> V { return a < b; }, "{a}<{b}", "a < b ? 1 : 0"},
      {"LE", 2, Role::pure, [](V a, V b, V) -> V { return a <= b; }, "{a}<={b}", "a <= b ? 1 : 0"},
      {"EQ", 2, Role::pure, [](V a, V b, V) -> V { return a == b; }, "{a}=={b}", "a == b ? 1 : 0"},
      {"MIN", 2, Role::pure, [](V a, V b, V) -> V { return std::min(a, b); }, "min({a},{b})", "a < b ? a : b"},
      {"MAX", 2, Role::pure, [](V a, V b, V) -> V { return std::max(a, b); }, "max({a},{b})", "a < b ? b : a"},
      {"WRITE", 2, Role::write},
  };
  return modules;
}

}  // namespace loci
