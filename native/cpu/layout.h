// How the codes of a group lie in its bytes, by width, and what the encoder and the decoder share.
// Included once per instruction set.
#pragma once

#include "../bits.h"
#include "../dispatch.h"
#include "elements.h"

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

// Groups are worked on in batches: their scales are a vector across groups, where one at a time
// they would be a chain of latencies longer than the work on the elements; and what one loop
// stores, the next reads back in another width only after the stores have left for L1.
constexpr int kBatch = 16;

// The bytes of a whole group's codes as they are worked on.
template <int kBits, int kGroup>
constexpr int kLength = kIsStream<kBits> ? kGroup : kGroup * kBits / 8;

// Pack a stream, in place and then out, from codes one a byte, whole units of them. While there is
// room eight bytes are stored, and the next unit overwrites those that are not this one's.
template <int kBits>
FXMEM_INLINE void put_stream(uint64_t* units, int count, uint8_t* codes) {
  const int length = stretch<kBits>(count);
  for (int u = 0; u * 8 < count; ++u) units[u] = squeeze<kBits>(units[u]);
  int u = 0;
  for (; u * kBits + 8 <= length; ++u) memcpy(codes + u * kBits, units + u, 8);
  for (; u * kBits < length; ++u) {
    const int left = length - u * kBits;
    memcpy(codes + u * kBits, units + u, left < kBits ? left : kBits);
  }
}

// Unpack a stream to codes one a byte. Eight bytes are read at once: those that end with a unit's,
// or at the stream's beginning its first. Fewer would be put together in memory, and read back only
// after they have left for L1.
template <int kBits>
FXMEM_INLINE void take_stream(const uint8_t* codes, int count, uint64_t* units) {
  const int length = stretch<kBits>(count);
  uint64_t first = 0;
  memcpy(&first, codes, length < 8 ? length : 8);
  const auto take = [&](int begin, int end) {
    if (end < 8) return first >> (8 * begin) & low_bits(8 * (end - begin));
    uint64_t unit;
    memcpy(&unit, codes + end - 8, 8);
    return unit >> (64 - 8 * (end - begin));
  };
  const int whole = count / 8;
  for (int u = 0; u < whole; ++u) units[u] = take(u * kBits, (u + 1) * kBits);
  if (count % 8 != 0) units[whole] = take(whole * kBits, length);
  for (int u = 0; u * 8 < count; ++u) units[u] = spread<kBits>(units[u]);
}

// call(an element, bits, group), the numbers as constants.
template <typename Call>
void with_layout(Element element, int bits, int group, const Call& call) {
  with_element(element, [&](auto x) {
    with_constant<8, 7, 6, 5, 4, 3, 2>(bits, [&](auto k) {
      with_constant<32, 64, 128, 256>(group, [&](auto size) { call(x, k, size); });
    });
  });
}

}  // namespace
}  // namespace fxmem
