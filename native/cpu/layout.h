// How the codes of a group lie in its bytes, by width. Included once per instruction set.
#pragma once

#include "../bits.h"

namespace fxmem {
namespace {

constexpr int kLargestGroup = 256;
constexpr int kSlack = 8;  // a short group is completed to whole bytes

// Where a byte holds whole codes, 8 / bits of them, they lie a whole stretch of the group apart:
// code j sits in byte j % stretch. Other widths are a plain bit stream, eight codes in `bits`
// bytes.
template <int kBits>
constexpr bool kIsStream = 8 % kBits != 0;

template <int kBits>
constexpr int stretch(int count) {
  return (count * kBits + 7) / 8;
}

// How many elements are worked on so that the last byte is whole.
template <int kBits>
constexpr int padded(int count) {
  return kIsStream<kBits> ? (count + 7) / 8 * 8 : stretch<kBits>(count) * (8 / kBits);
}

template <int kBits>
FXMEM_INLINE void put_stream(const int32_t* code, int count, uint8_t* codes) {
  alignas(64) uint8_t bytes[kLargestGroup];
  for (int i = 0; i < padded<kBits>(count); ++i) bytes[i] = static_cast<uint8_t>(code[i]);
  const int whole = count / 8;
  for (int u = 0; u < whole; ++u) {
    uint64_t unit;
    memcpy(&unit, bytes + u * 8, 8);
    unit = squeeze<kBits>(unit);
    memcpy(codes + u * kBits, &unit, kBits);
  }
  if (count % 8 != 0) {
    uint64_t unit = 0;
    memcpy(&unit, bytes + whole * 8, count % 8);
    unit = squeeze<kBits>(unit);
    memcpy(codes + whole * kBits, &unit, stretch<kBits>(count % 8));
  }
}

// Eight codes of a stream from their kBits bytes, one a byte. Eight bytes are read at once: those
// that end with them, or at the stream's beginning those that begin with them. Fewer would be put
// together in memory, and read back only after they have left for L1.
template <int kBits>
FXMEM_INLINE uint64_t take_unit(const uint8_t* codes, int u) {
  uint64_t unit;
  if ((u + 1) * kBits >= 8) {
    memcpy(&unit, codes + (u + 1) * kBits - 8, 8);
    return spread<kBits>(unit >> (64 - 8 * kBits));
  }
  memcpy(&unit, codes + u * kBits, 8);
  return spread<kBits>(unit & low_bits(8 * kBits));
}

template <int kBits>
FXMEM_INLINE void take_stream(const uint8_t* codes, int count, uint8_t* bytes) {
  const int whole = (count / 8) * kBits < 8 ? 0 : count / 8;
  for (int u = 0; u < whole; ++u) {
    const uint64_t unit = take_unit<kBits>(codes, u);
    memcpy(bytes + u * 8, &unit, 8);
  }
  for (int u = whole; u * 8 < count; ++u) {
    const int left = count - u * 8 < 8 ? count - u * 8 : 8;
    uint64_t unit = 0;
    memcpy(&unit, codes + u * kBits, stretch<kBits>(left));
    unit = spread<kBits>(unit);
    memcpy(bytes + u * 8, &unit, 8);
  }
}

}  // namespace
}  // namespace fxmem
