// Bit streams: k bits an element, lowest first. Eight elements fill exactly k bytes.
#pragma once

#include "arithmetic.h"

namespace fxmem {

constexpr uint64_t repeat(uint64_t field, int width) {
  uint64_t word = 0;
  for (int at = 0; at < 64; at += width) word |= field << at;
  return word;
}

constexpr uint64_t low_bits(int count) { return count >= 64 ? ~0ULL : (1ULL << count) - 1; }

// Two fields of kBits, kWidth apart, become one of 2 * kBits; all pairs of a word at once.
template <int kBits, int kWidth>
FXMEM_INLINE uint64_t join(uint64_t w) {
  constexpr uint64_t kLower = repeat(low_bits(kBits), 2 * kWidth);
  return (w & kLower) | ((w & (kLower << kWidth)) >> (kWidth - kBits));
}

// The inverse: the upper half of each field of 2 * kBits moves up, to kWidth above the lower.
template <int kBits, int kWidth>
FXMEM_INLINE uint64_t part(uint64_t w) {
  constexpr uint64_t kLower = repeat(low_bits(kBits), 2 * kWidth);
  return (w & kLower) | ((w & (kLower << kBits)) << (kWidth - kBits));
}

// Eight bytes, one element each, to 8 * kBits bits.
template <int kBits>
FXMEM_INLINE uint64_t squeeze(uint64_t bytes) {
  // One bit: the product's highest byte collects bit 0 of each byte.
  if constexpr (kBits == 1) return ((bytes & 0x0101010101010101U) * 0x0102040810204080U) >> 56;
  return join<4 * kBits, 32>(join<2 * kBits, 16>(join<kBits, 8>(bytes)));
}

// The inverse of squeeze.
template <int kBits>
FXMEM_INLINE uint64_t spread(uint64_t bits) {
  return part<kBits, 8>(part<2 * kBits, 16>(part<4 * kBits, 32>(bits)));
}

}  // namespace fxmem
