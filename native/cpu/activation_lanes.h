// Whole tiles in the 16 lanes of AVX-512, where GCC finds no such instructions: codes from masks,
// and levels and polynomials by permutation. What the plain loops give, they give; they return
// false for what they do not do.
#pragma once

#include "../bits.h"
#include "activation_segments.h"
#include "activation_tiles.h"

namespace fxmem {
namespace {

#ifdef __AVX512F__

template <typename T>
constexpr bool kHasLanes = !std::is_same_v<T, double>;
constexpr int kLanes = 16;
using Mask = __mmask16;

FXMEM_INLINE __m256i load_halves(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
FXMEM_INLINE __m512 load_lanes(const float* from) { return _mm512_loadu_ps(from); }
FXMEM_INLINE __m512 load_lanes(const Float16* from) { return _mm512_cvtph_ps(load_halves(from)); }
FXMEM_INLINE __m512 load_lanes(const BFloat16* from) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_halves(from)), 16));
}

FXMEM_INLINE void store_halves(__m256i halves, void* to) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), halves);
}
FXMEM_INLINE void store_lanes(__m512 values, float* to) { _mm512_storeu_ps(to, values); }
FXMEM_INLINE void store_lanes(__m512 values, Float16* to) {
  store_halves(_mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT), to);
}
FXMEM_INLINE void store_lanes(__m512 values, BFloat16* to) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const Mask is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7FC00000));
  store_halves(_mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)), to);
}

// Bits 0, kBits, ..., 15 * kBits.
template <int kBits>
constexpr uint64_t kEvery = repeat(1, kBits) & low_bits(kBits * kLanes);

// The lowest kBits bits of 16 codes of kWidth, as a stream; see rank().
template <int kWidth, int kBits>
FXMEM_INLINE uint64_t rank_lanes(const __m512* borders, __m512 x) {
  constexpr int kHalf = 1 << (kBits - 1);
  const Mask above = _mm512_cmp_ps_mask(x, borders[kHalf - 1], _CMP_GT_OQ);
  const uint64_t stream = _pdep_u64(above, kEvery<kWidth>) << (kBits - 1);
  if constexpr (kBits == 1) {
    return stream;
  } else {
    __m512 left[kHalf];
#pragma GCC unroll 8
    for (int k = 0; k < kHalf - 1; ++k)
      left[k] = _mm512_mask_blend_ps(above, borders[k], borders[kHalf + k]);
    return stream | rank_lanes<kWidth, kBits - 1>(left, x);
  }
}

template <typename T>
bool classify_lanes(const T* x, const float* from, int bits, bool even, uint8_t* stream) {
  if (bits > 4) return false;
  with_constant<1, 2, 3, 4>(bits, [&](auto k) {
    constexpr int kCount = 1 << k.value;
    __m512 borders[kCount];
    for (int b = 0; b < kCount - 1; ++b) borders[b] = _mm512_set1_ps(from[b]);
    for (int i = 0; i < kTile; i += kLanes) {
      const __m512 lanes = load_lanes(x + i);
      const __m512 ranked = even ? _mm512_abs_ps(lanes) : lanes;
      const uint64_t word = rank_lanes<k.value, k.value>(borders, ranked);
      memcpy(stream + i / 8 * k.value, &word, 2 * k.value);
    }
  });
  return true;
}

// A tile's part of a stream, with room to read a whole word anywhere in it.
struct Stream {
  alignas(64) uint8_t bytes[kTile / 2 + 8];
  Stream(const uint8_t* from, int bits) { memcpy(bytes, from, kTile / 8 * bits); }
};

template <typename T>
bool look_up_lanes(const uint8_t* codes, int bits, const float* levels, const T* grad, T* out) {
  if (bits > 4) return false;
  const Stream stream(codes, bits);
  alignas(64) float repeated[kLanes];
  alignas(64) int32_t places[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    repeated[i] = levels[i % (1 << bits)];
    places[i] = i % 8 * bits;
  }
  const __m512 table = _mm512_load_ps(repeated);
  const __m512i shifts = _mm512_load_si512(places);
  for (int i = 0; i < kTile; i += kLanes) {
    int32_t words[2];
    memcpy(words, stream.bytes + i / 8 * bits, 4);
    memcpy(words + 1, stream.bytes + (i / 8 + 1) * bits, 4);
    const __m512i low = _mm512_set1_epi32(words[0]), high = _mm512_set1_epi32(words[1]);
    const __m512i shifted = _mm512_srlv_epi32(_mm512_mask_blend_epi32(0xFF00, low, high), shifts);
    // Bits above the code select a copy of the same level.
    const __m512 level = _mm512_permutexvar_ps(shifted, table);
    store_lanes(grad == nullptr ? level : _mm512_mul_ps(load_lanes(grad + i), level), out + i);
  }
  return true;
}

// Segments in registers: a store to memory could change those in memory.
struct SegmentLanes {
  __m512 lowest, lowest_rest, start, top, stretch, scale, offset;
  __m512 terms[Segments::kDegree + 1][2];

  explicit SegmentLanes(const Segments& on)
      : lowest(_mm512_set1_ps(on.lowest)),
        lowest_rest(_mm512_set1_ps(on.lowest_rest)),
        start(_mm512_set1_ps(on.start)),
        top(_mm512_set1_ps(on.top)),
        stretch(_mm512_set1_ps(on.stretch)),
        scale(_mm512_set1_ps(on.scale)),
        offset(_mm512_set1_ps(on.offset)) {
    for (int k = 0; k <= Segments::kDegree; ++k) {
      terms[k][0] = _mm512_loadu_ps(on.terms[k]);
      terms[k][1] = _mm512_loadu_ps(on.terms[k] + kLanes);
    }
  }
};

// 16 slopes of y; right: on which branch. Of two operands, max and min give the second if one is
// NaN.
FXMEM_INLINE __m512 slope_lanes(const SegmentLanes& on, __m512 y, Mask right) {
  const Mask tail = _mm512_cmp_ps_mask(y, on.start, _CMP_GT_OQ) & ~right;
  const __m512 zero = _mm512_setzero_ps();
  const __m512 height = _mm512_sub_ps(_mm512_sub_ps(y, on.lowest), on.lowest_rest);
  const __m512 square = _mm512_mask_mul_ps(height, tail, y, on.stretch);
  const __m512 root = _mm512_sqrt_ps(_mm512_max_ps(zero, square));
  const __m512 s = _mm512_mask_sub_ps(root, ~(right | tail), zero, root);
  const __m512 offset = _mm512_mask_mov_ps(on.offset, tail, zero);
  const __m512 place =
      _mm512_min_ps(_mm512_set1_ps(0x1.fffffep+4F), _mm512_fmadd_ps(s, on.scale, offset));
  const __m512i segment = _mm512_cvttps_epi32(place);
  const __m512 part = _mm512_sub_ps(place, _mm512_cvtepi32_ps(segment));
  const auto term = [&](int k) {
    return _mm512_permutex2var_ps(on.terms[k][0], segment, on.terms[k][1]);
  };
  __m512 sum = term(Segments::kDegree);
#pragma GCC unroll 8
  for (int k = Segments::kDegree - 1; k >= 0; --k) sum = _mm512_fmadd_ps(sum, part, term(k));
  const __m512 slope = _mm512_mask_mul_ps(sum, tail, sum, y);
  const Mask straight = _mm512_cmp_ps_mask(y, on.top, _CMP_GE_OQ);
  return _mm512_mask_mov_ps(slope, straight, _mm512_set1_ps(1.0F));
}

template <typename T>
bool slope_lanes(const Segments* on, const T* y, const uint8_t* branch, const T* grad, T* out) {
  if (on == nullptr) return false;
  const SegmentLanes lanes(*on);
  const Stream stream(branch, 1);
  for (int i = 0; i < kTile; i += kLanes) {
    Mask right;
    memcpy(&right, stream.bytes + i / 8, sizeof(right));
    const __m512 slope = slope_lanes(lanes, load_lanes(y + i), right);
    store_lanes(_mm512_mul_ps(load_lanes(grad + i), slope), out + i);
  }
  return true;
}

#else

template <typename T>
constexpr bool kHasLanes = false;

#endif

}  // namespace
}  // namespace fxmem
