#include "loci/base/cpu_level.h"

#include <cstdlib>

#include "loci/base/check.h"

namespace loci {
namespace {

CpuLevel decide() {
  const char* asked = std::getenv("LOCI_CPU_LEVEL");
  const CpuLevel best = best_cpu_level();
  if (asked == nullptr || *asked == '\0') return best;
  for (CpuLevel level : {CpuLevel::base, CpuLevel::avx2, CpuLevel::avx512}) {
    if (asked != name_of(level)) continue;
    if (level > best) {
      fail(ExitCode::usage, "LOCI_CPU_LEVEL", fmt::format("the level must be at most {}, this CPU's", name_of(best)),
           asked);
    }
    return level;
  }
  fail(ExitCode::usage, "LOCI_CPU_LEVEL", "the level must be base, avx2 or avx512", fmt::format("\"{}\"", asked));
}

}  // namespace

CpuLevel cpu_level() {
  static const CpuLevel level = decide();
  return level;
}

std::vector<CpuLevel> cpu_levels() {
  std::vector<CpuLevel> found;
  for (const CpuLevel level : {CpuLevel::base, CpuLevel::avx2, CpuLevel::avx512}) {
    if (level <= best_cpu_level()) found.push_back(level);
  }
  return found;
}

CpuLevel best_cpu_level() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuLevel::base;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return avx512 ? CpuLevel::avx512 : CpuLevel::avx2;
#else
  return CpuLevel::base;
#endif
}

bool cpu_has_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");  // every CPU with AMX-BF16 has it as well
#else
  return false;
#endif
}

bool cpu_has_vpopcntdq() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512vpopcntdq");
#else
  return false;
#endif
}

std::string_view name_of(CpuLevel level) {
  switch (level) {
    case CpuLevel::base:
      return "base";
    case CpuLevel::avx2:
      return "avx2";
    case CpuLevel::avx512:
      return "avx512";
  }
  fail(ExitCode::bug, "name_of", "level must be base, avx2 or avx512", fmt::to_string(static_cast<int>(level)));
}

}  // namespace loci
