// The numbers that a sketch S is made of, from the seed's stream: where they lie in it is said in
// fxmem/ops/sketches/reference.py. S = diagonal blocks; within one, entry (t, q) = number *
// scale(t).
#pragma once

#include <cmath>

#include "arithmetic.h"

namespace fxmem {

enum Projection { kGaussian, kRademacher, kDct, kDft, kHadamard, kCrs };

constexpr int64_t kBlockRows = 256;
constexpr int64_t kSigns = int64_t{1} << 40;
constexpr int64_t kSampled = int64_t{2} << 40;

FXMEM_INLINE int64_t block_count(int64_t n, int64_t rows) {
  const int64_t most = n / kBlockRows < rows ? n / kBlockRows : rows;
  return most > 1 ? most : 1;
}

// Rows [first, first + n) of x become rows [top, top + k) of its sketch.
struct SketchBlock {
  int64_t number, first, n, top, k, width;
};

FXMEM_INLINE SketchBlock block_at(int64_t n, int64_t rows, int64_t b) {
  const int64_t count = block_count(n, rows);
  const int64_t first = n * b / count;
  const int64_t top = rows * b / count;
  const int64_t width = ((n + count - 1) / count + 31) / 32 * 32;
  return {b, first, n * (b + 1) / count - first, top, rows * (b + 1) / count - top, width};
}

FXMEM_INLINE int64_t power_of_two(int64_t n) {
  int64_t size = 1;
  while (size < n) size *= 2;
  return size;
}

// What t's stratum of `size` rows draws.
FXMEM_INLINE int64_t sampled_row(uint64_t seed, const SketchBlock& block, int64_t t, int64_t size) {
  const int64_t index = kSampled + block.top + t;
  const uint64_t place =
      (static_cast<uint64_t>(t) << 32) + draw(make_key(seed, index), static_cast<uint32_t>(index));
  return static_cast<int64_t>((place * static_cast<uint64_t>(size) / block.k) >> 32);
}

// Signs of 32 columns from q on, a bit each: of all rows, or of row t alone.
FXMEM_INLINE uint32_t column_signs(uint64_t seed, const SketchBlock& block, int64_t q) {
  const int64_t index = kSigns + block.number * (block.width / 32) + q / 32;
  return draw(make_key(seed, index), static_cast<uint32_t>(index));
}
FXMEM_INLINE uint32_t entry_signs(uint64_t seed, const SketchBlock& block, int64_t t, int64_t q) {
  const int64_t index = (block.top + t) * (block.width / 32) + q / 32;
  return draw(make_key(seed, index), static_cast<uint32_t>(index));
}

FXMEM_INLINE float signed_one(uint32_t signs, int place) {
  return bits_as<float>(bits_as<uint32_t>(1.0F) | ((signs >> place) & 1U) << 31);
}

// The logarithm of a number in (0, 1), by the series of the inverse hyperbolic tangent.
FXMEM_INLINE float log_of(float u) {
  constexpr uint32_t kRootHalf = 0x3F3504F3U;
  const uint32_t bits = bits_as<uint32_t>(u);
  const int32_t exponent = static_cast<int32_t>(bits - kRootHalf) >> 23;
  const float m = bits_as<float>(bits - (static_cast<uint32_t>(exponent) << 23));
  const float s = (m - 1.0F) / (m + 1.0F);
  const float z = s * s;
  const float series = ((z * (1.0F / 9) + 1.0F / 7) * z + 0.2F) * z + 1.0F / 3;
  return static_cast<float>(exponent) * 0.693147181F + 2.0F * (s + s * z * series);
}

struct Direction {
  float cosine, sine;
};

// Of an angle in 2^-32 of a turn: the nearest quarter turn, and a series for what is left of it.
FXMEM_INLINE Direction direction(uint32_t angle) {
  const uint32_t quarter = (angle + 0x20000000U) >> 30;
  const auto rest = static_cast<int32_t>(angle - (quarter << 30));
  const float x = static_cast<float>(rest) * 0x1.921fb6p-30F;
  const float z = x * x;
  const float odd = ((z * (1.0F / 362880) - 1.0F / 5040) * z + 1.0F / 120) * z - 1.0F / 6;
  const float even = ((z * (1.0F / 40320) - 1.0F / 720) * z + 1.0F / 24) * z - 0.5F;
  const float sine = x + x * z * odd;
  const float cosine = 1.0F + z * even;
  const bool turned = (quarter & 1U) != 0U;
  const uint32_t first = bits_as<uint32_t>(turned ? sine : cosine);
  const uint32_t second = bits_as<uint32_t>(turned ? cosine : sine);
  return {bits_as<float>(first ^ ((quarter + 1U) >> 1 & 1U) << 31),
          bits_as<float>(second ^ (quarter >> 1 & 1U) << 31)};
}

// Two independent normal numbers from two draws (Box and Muller, 1958).
FXMEM_INLINE Direction normal_pair(uint32_t length, uint32_t angle) {
  const float uniform = (static_cast<float>(length >> 9) + 0.5F) * 0x1p-23F;
  const float radius = sqrtf(-2.0F * log_of(uniform));
  const Direction to = direction(angle);
  return {radius * to.cosine, radius * to.sine};
}

// A row of a trigonometric basis: cosines of offset + q * step, in 2^-52 of a turn.
struct Wave {
  uint64_t offset, step;
  bool single;  // without a partner, and so of half the energy
};

FXMEM_INLINE uint64_t turns(int64_t part, int64_t whole) {
  return static_cast<uint64_t>(static_cast<double>(part) / static_cast<double>(whole) * 0x1p+52);
}

FXMEM_INLINE Wave wave_of(Projection kind, int64_t row, int64_t size) {
  if (kind == kDct) {
    const uint64_t half = turns(row, 4 * size);
    return {half, 2 * half, row == 0};
  }
  const uint64_t step = turns((row + 1) / 2, size);
  const bool is_sine = row % 2 == 0 && row != 0;
  const bool last = row == size - 1 && size % 2 == 0;
  return {is_sine ? uint64_t{3} << 50 : 0, step, row == 0 || last};
}

FXMEM_INLINE float wave_at(const Wave& wave, int64_t q) {
  return direction(
             static_cast<uint32_t>((wave.offset + static_cast<uint64_t>(q) * wave.step) >> 20))
      .cosine;
}

}  // namespace fxmem
