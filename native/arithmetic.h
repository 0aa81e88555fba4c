// What every kernel, CPU or CUDA, agrees on to the last bit. No contraction into fma is allowed
// here (-ffp-contract=off, -fmad=false): the plain torch reference has none.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#ifdef __CUDACC__
#define FXMEM_INLINE static __host__ __device__ __forceinline__
#define FXMEM_MEMBER __host__ __device__
#define FXMEM_UNROLL _Pragma("unroll")
#else
#define FXMEM_MEMBER inline __attribute__((always_inline))
#define FXMEM_UNROLL _Pragma("GCC unroll 8")
// static: the CPU kernels are compiled once per instruction set, and the linker must never share
// their copies.
#define FXMEM_INLINE static inline __attribute__((always_inline))
#endif

namespace fxmem {

template <typename To, typename From>
FXMEM_INLINE To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

// 1 + 2^-8 and a little: a number scaled by it and then rounded to bf16 is never below itself.
constexpr double kHeadroom = 1.00391;
constexpr float kBf16Max = 0x1.fep+127F;
constexpr float kSmallestNormal = 0x1p-126F;

// To the nearest bf16, ties to even. Finite input.
FXMEM_INLINE float round_bf16(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  return bits_as<float>((bits + 0x7FFFU + ((bits >> 16) & 1U)) & 0xFFFF0000U);
}

// To the next bf16 towards minus infinity, at least the lowest finite one. Finite input.
FXMEM_INLINE float floor_bf16(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t away = (bits >> 31) != 0U ? 0xFFFFU : 0U;
  const float down = bits_as<float>((bits + away) & 0xFFFF0000U);
  return down > -kBf16Max ? down : -kBf16Max;
}

// A signed integer that orders floats: -NaN < -inf < ... < -0 < 0 < ... < inf < NaN.
FXMEM_INLINE int32_t ordered(float value) {
  const int32_t bits = bits_as<int32_t>(value);
  return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

FXMEM_INLINE float from_ordered(int32_t key) {
  return bits_as<float>(key ^ ((key >> 31) & 0x7FFFFFFF));
}

// What a group of elements is decoded with, zero + code * step; the encoder needs the others.
struct Scale {
  float step, zero, inverse, offset;
};

FXMEM_INLINE Scale make_scale(float step, float zero, bool finite) {
  if (!finite) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    return {nan, nan, 0.0F, 0.0F};
  }
  // A subnormal step has no finite inverse; what it would tell apart is below every stated bound.
  step = step < kSmallestNormal ? 0.0F : step;
  const float inverse = step > 0.0F ? 1.0F / step : 0.0F;
  return {step, zero, inverse, zero * inverse};
}

// From the smallest and the largest element, in the order of ordered(): a NaN is one of them.
template <int kBits, bool kStochastic>
FXMEM_INLINE Scale group_scale(float low, float high) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const bool finite = low > -kInfinity && high < kInfinity;
  if constexpr (kBits == 8) {
    const float largest = high > -low ? high : -low;
    constexpr auto kPerLevel = static_cast<float>((kStochastic ? kHeadroom : 1.0) / 127);
    return make_scale(round_bf16(largest * kPerLevel), 0.0F, finite);
  } else {
    // To nearest, both ends may lie half a step outside the levels: one level's width is won.
    // Halves keep high - low finite.
    constexpr int kTop = (1 << kBits) - 1;
    constexpr auto kPerLevel = static_cast<float>(2.0 / (kStochastic ? kTop : kTop + 0.5));
    constexpr auto kHalfStep = 1.0F / static_cast<float>(kTop + 1);
    const bool inside = !kStochastic && low != 0.0F;
    const float target = inside ? low + (high * 0.5F - low * 0.5F) * kHalfStep : low;
    const float zero = floor_bf16(target);
    const float above = (high * 0.5F - zero * 0.5F) * kPerLevel;
    const float below = (zero - low) * 2.0F;
    const float need = above > below ? above : below;
    return make_scale(round_bf16(need * static_cast<float>(kHeadroom)), zero, finite);
  }
}

// The code of one element, in [-127, 127] for 8 bits and [0, 2^bits) below. Rounding is stochastic
// where a dither is added before it. Of a non-finite group any code will do.
template <int kBits, bool kStochastic>
FXMEM_INLINE int32_t encode_value(float value, float inverse, float offset, float dither) {
  constexpr int32_t kTop = kBits == 8 ? 127 : (1 << kBits) - 1;
  constexpr int32_t kBottom = kBits == 8 ? -127 : 0;
  float level = value * inverse;
  if constexpr (kBits != 8) level = level - offset;
  if constexpr (kStochastic) level = level + dither;
  // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
  auto code = static_cast<int32_t>(bits_as<uint32_t>(level + 0x1.8p+23F) - 0x4B400000U);
  code = code < kTop ? code : kTop;
  return code > kBottom ? code : kBottom;
}

template <int kBits>
FXMEM_INLINE float decode_value(int32_t code, float step, float zero) {
  const float value = static_cast<float>(code) * step;
  return kBits == 8 ? value : zero + value;
}

// No value that rounds to infinity; NaN stays NaN.
FXMEM_INLINE float limit(float value, float largest) {
  value = value < -largest ? -largest : value;
  return value > largest ? largest : value;
}

FXMEM_INLINE uint32_t mix(uint32_t h) {
  h = (h ^ (h >> 16)) * 0x7FEB352DU;
  h = (h ^ (h >> 15)) * 0x846CA68BU;
  return h ^ (h >> 16);
}

// The key of 2^32 consecutive elements: the seed and the high half of the index, in both numbers.
struct Key {
  uint32_t first, second;
};

FXMEM_INLINE Key make_key(uint64_t seed, int64_t index) {
  const uint32_t low = static_cast<uint32_t>(seed) ^ mix(static_cast<uint32_t>(index >> 32));
  const uint32_t high = static_cast<uint32_t>(seed >> 32);
  return {mix(mix(low ^ 0x9E3779B9U) + high), mix(mix(high ^ 0x85EBCA6BU) + low)};
}

// 32 random bits: two numbers of the stream that `key` selects.
FXMEM_INLINE uint32_t draw(Key key, uint32_t index) {
  uint32_t h = index ^ key.first;
  h = (h ^ (h >> 16)) * 0x7FEB352DU;
  h = ((h ^ (h >> 15)) + key.second) * 0x846CA68BU;
  return h ^ (h >> 16);
}

// Uniform in (-1/2, 1/2): the middle of one of 2^16 intervals, by the low half of `bits`. Added to
// an integer and rounded it never moves it, and on the whole it moves nothing up or down.
FXMEM_INLINE float centred(uint32_t bits) {
  return bits_as<float>((bits & 0xFFFFU) << 7 | bits_as<uint32_t>(1.0F)) - (1.5F - 0x1p-17F);
}

// Elements that lie 16 apart in a block of 32 share one draw.
FXMEM_INLINE float dither(Key key, uint32_t index) {
  const uint32_t both = draw(key, (index >> 5 << 4) | (index & 15U));
  return centred((index & 16U) != 0U ? both >> 16 : both);
}

// Uniform in (0, 1).
FXMEM_INLINE float uniform(Key key, uint32_t index) { return 0.5F + dither(key, index); }

}  // namespace fxmem
