// The instruction level of the kernels: base (x86-64), avx2 (with FMA), avx512 (F, BW, VL, DQ).
#pragma once

#include <string_view>
#include <vector>

namespace loci {

enum class CpuLevel { base, avx2, avx512 };

// The level that kernels run at: the CPU's best, or what LOCI_CPU_LEVEL=base|avx2|avx512 asks for. Decided once.
// Throws Error (usage) for an unknown word or a level above the CPU's.
CpuLevel cpu_level();

CpuLevel best_cpu_level();
bool cpu_has_bfloat16();   // AVX512-BF16 or AMX-BF16: bfloat16 matrix products run faster than float32 ones
bool cpu_has_vpopcntdq();  // AVX512-VPOPCNTDQ: the bits of eight words are counted by one instruction
std::string_view name_of(CpuLevel level);
std::vector<CpuLevel> cpu_levels();  // those that the CPU has, from base up

// A kernel, or the pointer to one, of a level.
template <class Kernel>
const Kernel& at_level(CpuLevel level, const Kernel& base, const Kernel& avx2, const Kernel& avx512) {
  return level == CpuLevel::avx512 ? avx512 : level == CpuLevel::avx2 ? avx2 : base;
}

}  // namespace loci
