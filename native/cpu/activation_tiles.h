// Tiles of elements as float (of float64 as double), the codes of their intervals, and the levels
// of codes. Included by the per-instruction-set kernels only.
#pragma once

#include "../dispatch.h"
#include "elements.h"
#include "kernels.h"

namespace fxmem {

namespace FXMEM_ISA {
void pack(const MaskTask&, int bits, int64_t first, int64_t last);
void unpack(const MaskTask&, int bits, int64_t first, int64_t last);
}  // namespace FXMEM_ISA

namespace {

template <typename T>
using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;
template <typename T>
constexpr bool kIsScalar = std::is_same_v<T, Scalar<T>>;

template <typename S>
using Buffer = S[kTile];

inline const float* numbers(const Table& table, float /*kind*/) { return table.narrow; }
inline const double* numbers(const Table& table, double /*kind*/) { return table.wide; }

// `count` elements from `at` on: where they lie, if they are scalars already.
template <typename T>
FXMEM_INLINE const Scalar<T>* take(const void* x, int64_t at, int count, Scalar<T>* buffer) {
  const T* from = static_cast<const T*>(x) + at;
  if constexpr (kIsScalar<T>)
    return from;
  else
    return floats(from, count, buffer);
}

// `count` elements as scalars of their own.
template <typename T>
FXMEM_INLINE void load_row(const T* from, int count, Scalar<T>* to) {
  if constexpr (kIsScalar<T>)
    memcpy(to, from, count * sizeof(T));
  else
    floats(from, count, to);
}

// Where a tile of results is made: in `out` itself, if that holds scalars.
template <typename T>
FXMEM_INLINE Scalar<T>* place(void* out, int64_t at, Scalar<T>* buffer) {
  if constexpr (kIsScalar<T>)
    return static_cast<T*>(out) + at;
  else
    return buffer;
}

FXMEM_INLINE BFloat16 round_to(float value, BFloat16 /*kind*/) {
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return {static_cast<uint16_t>(value == value ? rounded : 0x7FC0U)};
}

// As store() of elements.h, for magnitudes that round to infinity, too.
FXMEM_INLINE Float16 round_to(float value, Float16 /*kind*/) {
  Float16 half;
  store(value, &half);
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  const bool infinite = magnitude >= 0x477FF000U && magnitude <= 0x7F800000U;
  const uint32_t infinity = ((bits >> 16) & 0x8000U) | 0x7C00U;
  return {static_cast<uint16_t>(infinite ? infinity : half.bits)};
}

// The rest of place(): what was made in the buffer goes to `out`.
template <typename T>
FXMEM_INLINE void put(const Scalar<T>* buffer, int count, void* out, int64_t at) {
  if constexpr (!kIsScalar<T>) {
    T* to = static_cast<T*>(out) + at;
    for (int i = 0; i < count; ++i) to[i] = round_to(buffer[i], T{});
  }
}

// How many of the 2^kBits - 1 ascending borders are below x: a vector of selects instead of
// gathers.
template <int kBits, typename S>
FXMEM_INLINE uint32_t rank(const S* borders, S x) {
  constexpr int kHalf = 1 << (kBits - 1);
  const bool above = x > borders[kHalf - 1];
  if constexpr (kBits == 1) {
    return above ? 1 : 0;
  } else {
    S left[kHalf];
#pragma GCC unroll 8
    for (int k = 0; k < kHalf - 1; ++k) left[k] = above ? borders[kHalf + k] : borders[k];
    return (above ? kHalf : 0) + rank<kBits - 1>(left, x);
  }
}

template <int kBits, typename S>
void rank_tile(const S* x, int count, const S* from, int step, uint32_t* codes) {
  S borders[1 << kBits];
  for (int k = 0; k < (1 << kBits) - 1; ++k) borders[k] = from[(k + 1) * step - 1];
  for (int i = 0; i < count; ++i) codes[i] = rank<kBits>(borders, x[i]);
}

// How many of the 2^bits - 1 ascending borders are below each x; the last ones may be infinite.
// The first four halvings in vectors, the others, a table's, across the tile.
template <typename S>
void classify_tile(const S* x, int count, const S* borders, int bits, uint8_t* codes) {
  alignas(64) uint32_t wide[kTile];
  with_constant<1, 2, 3, 4>(bits, [&](auto k) {
    const int rest = bits > k.value ? bits - k.value : 0;
    rank_tile<k.value>(x, count, borders, 1 << rest, wide);
    for (int i = 0; i < count; ++i) wide[i] <<= rest;
    for (uint32_t half = (1U << rest) / 2; half > 0; half /= 2) {
      for (int i = 0; i < count; ++i) wide[i] += x[i] > borders[wide[i] + half - 1] ? half : 0;
    }
  });
  for (int i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(wide[i]);
}

// Draws the lower or the upper of the two levels around each slope, so that the slope is expected.
// inner: the levels but for the outermost.
template <typename S>
void draw_tile(const S* slope, int count, const S* levels, const S* inner, int bits, uint64_t seed,
               int64_t at, uint8_t* codes) {
  const Key key = make_key(seed, at);
  alignas(64) Buffer<S> share;
  classify_tile(slope, count, inner, bits, codes);
  for (int i = 0; i < count; ++i) {
    const S low = levels[codes[i]], high = levels[codes[i] + 1];
    share[i] = (slope[i] - low) / (high - low);
  }
  for (int i = 0; i < count; ++i)
    codes[i] += uniform(key, static_cast<uint32_t>(at) + i) < share[i] ? 1 : 0;
}

inline void pack_tile(const uint8_t* codes, int count, int bits, int64_t at, uint8_t* stream) {
  FXMEM_ISA::pack({codes, stream + at * bits / 8, count}, bits, 0, (count + 7) / 8);
}

inline void unpack_tile(const uint8_t* stream, int64_t at, int count, int bits, uint8_t* codes) {
  FXMEM_ISA::unpack({stream + at * bits / 8, codes, count}, bits, 0, (count + 7) / 8);
}

}  // namespace
}  // namespace fxmem
