#include "loci/base/checksum.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>

#include <xxhash.h>

#include "loci/base/mapped_file.h"

namespace loci {
namespace {

std::string digits_of(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  std::string text;
  for (const unsigned char byte : canonical.digest) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace

std::string checksum(std::span<const std::byte> bytes) {
  return digits_of(XXH3_128bits(bytes.data(), bytes.size()));
}

std::string checksum(const MappedFile& file) {
  constexpr size_t piece = size_t{16} << 20;
  Checksum sum;
  std::span<const std::byte> bytes = file.bytes();
  while (!bytes.empty()) {
    const size_t count = std::min(piece, bytes.size());
    sum.add(bytes.first(count));
    madvise(const_cast<std::byte*>(bytes.data()), count, MADV_DONTNEED);
    bytes = bytes.subspan(count);
  }
  return sum.text();
}

struct Checksum::State {
  XXH3_state_t hash;
};

Checksum::Checksum() : state_(std::make_unique<State>()) {
  XXH3_128bits_reset(&state_->hash);
}

Checksum::~Checksum() = default;

void Checksum::add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(&state_->hash, bytes.data(), bytes.size());
}

std::string Checksum::text() const {
  return digits_of(XXH3_128bits_digest(&state_->hash));
}

}  // namespace loci
