// The vectors of a level. For kernel files alone.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace loci::LOCI_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

}  // namespace
}  // namespace loci::LOCI_LEVEL
