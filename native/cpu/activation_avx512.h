// The lanes of AVX-512: 16 floats, masks of a bit a lane, and tables of 32 in one permutation.
#pragma once

#include "../bits.h"
#include "activation_segments.h"
#include "activation_tiles.h"

namespace fxmem {
namespace {

constexpr int kLanes = 16, kRanked = 16;  // kRanked: elements that are coded at a time
using Lanes = __m512;
using Places = __m512i;
using Mask = __mmask16;
using LaneSegments = Segments<8, 32, 4>;

FXMEM_INLINE __m256i load_halves(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
FXMEM_INLINE Lanes load_lanes(const float* from) { return _mm512_loadu_ps(from); }
FXMEM_INLINE Lanes load_lanes(const Float16* from) { return _mm512_cvtph_ps(load_halves(from)); }
FXMEM_INLINE Lanes load_lanes(const BFloat16* from) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_halves(from)), 16));
}

FXMEM_INLINE void store_halves(__m256i halves, void* to) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), halves);
}
FXMEM_INLINE void store_lanes(Lanes values, float* to) { _mm512_storeu_ps(to, values); }
FXMEM_INLINE void store_lanes(Lanes values, Float16* to) {
  store_halves(_mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT), to);
}
FXMEM_INLINE void store_lanes(Lanes values, BFloat16* to) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const Mask is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7FC00000));
  store_halves(_mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)), to);
}

FXMEM_INLINE Lanes all_lanes(float value) { return _mm512_set1_ps(value); }
FXMEM_INLINE Lanes magnitudes(Lanes x) { return _mm512_abs_ps(x); }
FXMEM_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
FXMEM_INLINE Lanes square_roots(Lanes x) { return _mm512_sqrt_ps(x); }
// Of two operands, these give the second if one is NaN.
FXMEM_INLINE Lanes smaller(Lanes a, Lanes b) { return _mm512_min_ps(a, b); }
FXMEM_INLINE Lanes larger(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
FXMEM_INLINE Places places_of(Lanes x) { return _mm512_cvttps_epi32(x); }
FXMEM_INLINE Lanes numbers_of(Places x) { return _mm512_cvtepi32_ps(x); }

FXMEM_INLINE Mask above(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
FXMEM_INLINE Mask not_below(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
FXMEM_INLINE Mask without(Mask a, Mask b) { return a & ~b; }
FXMEM_INLINE Lanes chosen(Mask mask, Lanes yes, Lanes no) {
  return _mm512_mask_blend_ps(mask, no, yes);
}
FXMEM_INLINE Mask either(Mask a, Mask b) { return a | b; }
FXMEM_INLINE Lanes negated_unless(Mask mask, Lanes x) {
  return _mm512_mask_sub_ps(x, ~mask, _mm512_setzero_ps(), x);
}
FXMEM_INLINE Lanes zero_where(Mask mask, Lanes x) { return _mm512_maskz_mov_ps(~mask, x); }
FXMEM_INLINE Mask mask_at(const uint8_t* stream) {
  Mask mask;
  memcpy(&mask, stream, sizeof(mask));
  return mask;
}

// A column of segments in registers: a store to memory could change one in memory.
struct Column {
  __m512 low, high;
  void load(const float* from) {
    low = _mm512_loadu_ps(from);
    high = _mm512_loadu_ps(from + kLanes);
  }
  Lanes at(Places places) const { return _mm512_permutex2var_ps(low, places, high); }
};

// Codes as places in a repeated table: bits above a code select a copy of the same level.
struct LevelLanes {
  __m512 table;
  __m512i shifts;
  int bits;
  LevelLanes(const float* levels, int width) : bits(width) {
    alignas(64) float repeated[kLanes];
    alignas(64) int32_t places[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      repeated[i] = levels[i % (1 << bits)];
      places[i] = i % 8 * bits;
    }
    table = _mm512_load_ps(repeated);
    shifts = _mm512_load_si512(places);
  }
  Lanes at(const uint8_t* stream) const {
    int32_t words[2];
    memcpy(words, stream, 4);
    memcpy(words + 1, stream + bits, 4);
    const __m512i low = _mm512_set1_epi32(words[0]), high = _mm512_set1_epi32(words[1]);
    const __m512i shifted = _mm512_srlv_epi32(_mm512_mask_blend_epi32(0xFF00, low, high), shifts);
    return _mm512_permutexvar_ps(shifted, table);
  }
};

// Bits 0, kBits, ..., 15 * kBits.
template <int kBits>
constexpr uint64_t kEvery = repeat(1, kBits) & low_bits(kBits * kLanes);

// The lowest kBits bits of 16 codes of kWidth, as a stream; see rank().
template <int kWidth, int kBits>
FXMEM_INLINE uint64_t rank_lanes(const Lanes* borders, Lanes x) {
  constexpr int kHalf = 1 << (kBits - 1);
  const Mask higher = above(x, borders[kHalf - 1]);
  const uint64_t stream = _pdep_u64(higher, kEvery<kWidth>) << (kBits - 1);
  if constexpr (kBits == 1) {
    return stream;
  } else {
    Lanes left[kHalf];
#pragma GCC unroll 8
    for (int k = 0; k < kHalf - 1; ++k) left[k] = chosen(higher, borders[kHalf + k], borders[k]);
    return stream | rank_lanes<kWidth, kBits - 1>(left, x);
  }
}

template <int kBits>
struct BorderLanes {
  Lanes borders[1 << kBits];
  explicit BorderLanes(const float* from) {
    for (int b = 0; b < (1 << kBits) - 1; ++b) borders[b] = all_lanes(from[b]);
  }
  void rank(const Lanes* x, uint8_t* stream) const {
    const uint64_t word = rank_lanes<kBits, kBits>(borders, *x);
    memcpy(stream, &word, 2 * kBits);
  }
};

}  // namespace
}  // namespace fxmem
