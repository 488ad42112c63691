// A stream of tokens in memory that someone else owns, as uint16 or uint32.
#pragma once

#include <cstdint>

namespace loci {

class TokenSpan {
 public:
  TokenSpan() = default;
  TokenSpan(const uint16_t* tokens, int64_t size) : narrow_(tokens), size_(size) {}
  TokenSpan(const uint32_t* tokens, int64_t size) : wide_(tokens), size_(size) {}

  int64_t size() const { return size_; }
  int64_t operator[](int64_t i) const { return narrow_ != nullptr ? int64_t{narrow_[i]} : int64_t{wide_[i]}; }
  // tokens[begin .. begin+count-1] into out; the caller keeps to the span.
  void copy(int64_t begin, int64_t count, int64_t* out) const {
    for (int64_t i = 0; i < count; ++i) out[i] = (*this)[begin + i];
  }

 private:
  const uint16_t* narrow_ = nullptr;
  const uint32_t* wide_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace loci
