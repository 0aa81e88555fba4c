// Blocks of stored elements to and from float. Included by the per-instruction-set kernels only.
#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "../arithmetic.h"
#include "kernels.h"

namespace fxmem {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// call(an element of this kind); of double only for kernels that have it.
template <bool kHasDouble = false, typename Call>
void with_element(Element element, const Call& call) {
  switch (element) {
    case kFloat32:
      return call(float{});
    case kBFloat16:
      return call(BFloat16{});
    case kFloat16:
      return call(Float16{});
    case kFloat64:
      if constexpr (kHasDouble) call(double{});
  }
}

template <typename T>
constexpr float kLargest = std::numeric_limits<float>::max();
template <>
constexpr float kLargest<BFloat16> = kBf16Max;
template <>
constexpr float kLargest<Float16> = 65504.0F;

FXMEM_INLINE float to_float(float value) { return value; }

FXMEM_INLINE float to_float(BFloat16 value) {
  return bits_as<float>(static_cast<uint32_t>(value.bits) << 16);
}

// Exponents are moved by a multiplication, which makes subnormal halves right as well.
FXMEM_INLINE float to_float(Float16 value) {
  const uint32_t magnitude = (value.bits & 0x7FFFU) << 13;
  const uint32_t sign = (value.bits & 0x8000U) << 16;
  const uint32_t moved = bits_as<uint32_t>(bits_as<float>(magnitude) * 0x1p+112F);
  return bits_as<float>(sign | (magnitude >= 0x0F800000U ? magnitude | 0x7F800000U : moved));
}

FXMEM_INLINE void store(float value, float* out) { *out = value; }

// A NaN here comes from a bf16 scale: its low bits are zero, and rounding carries nothing upwards.
FXMEM_INLINE void store(float value, BFloat16* out) {
  const uint32_t bits = bits_as<uint32_t>(value);
  out->bits = static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

// Finite within +-65504, or NaN.
FXMEM_INLINE void store(float value, Float16* out) {
  const uint32_t bits = bits_as<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  const uint32_t normal = (magnitude + 0xC8000FFFU + ((magnitude >> 13) & 1U)) >> 13;
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5F) - 0x3F000000U;
  const uint32_t finite = magnitude < 0x38800000U ? subnormal : normal;
  const uint32_t half = value == value ? finite : 0x7E00U;
  out->bits = static_cast<uint16_t>(half | ((bits >> 16) & 0x8000U));
}

// An element's place in the order of floats, as an integer of its own size; see ordered().
FXMEM_INLINE int32_t order_key(float value) { return ordered(value); }

template <typename T>
FXMEM_INLINE int16_t order_key(T value) {
  const auto bits = static_cast<int16_t>(value.bits);
  return static_cast<int16_t>(bits ^ ((bits >> 15) & 0x7FFF));
}

FXMEM_INLINE float key_to_float(int32_t key, float /*kind*/) { return from_ordered(key); }

template <typename T>
FXMEM_INLINE float key_to_float(int16_t key, T /*kind*/) {
  return to_float(T{static_cast<uint16_t>(key ^ ((key >> 15) & 0x7FFF))});
}

// Float views of `count` elements: the elements themselves where they are float already.
FXMEM_INLINE const float* floats(const float* x, int /*count*/, float* /*buffer*/) { return x; }

FXMEM_INLINE const float* floats(const BFloat16* x, int count, float* buffer) {
  for (int i = 0; i < count; ++i) buffer[i] = to_float(x[i]);
  return buffer;
}

FXMEM_INLINE const float* floats(const Float16* x, int count, float* buffer) {
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    _mm512_storeu_ps(buffer + i,
                     _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
  }
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(buffer + i,
                     _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  }
#endif
  for (; i < count; ++i) buffer[i] = to_float(x[i]);
  return buffer;
}

FXMEM_INLINE void store_block(const float* values, int count, BFloat16* out) {
  for (int i = 0; i < count; ++i) store(values[i], out + i);
}

FXMEM_INLINE void store_block(const float* values, int count, Float16* out) {
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    const __m256i halves = _mm512_cvtps_ph(_mm512_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), halves);
  }
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), halves);
  }
#endif
  for (; i < count; ++i) store(values[i], out + i);
}

}  // namespace
}  // namespace fxmem
