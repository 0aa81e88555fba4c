// The lanes of AVX2: 8 floats, masks of a lane's width, and tables of 8 in one permutation.
#pragma once

#include "activation_segments.h"
#include "activation_tiles.h"

namespace fxmem {
namespace {

constexpr int kLanes = 8, kRanked = 32;  // kRanked: elements that are coded at a time
using Lanes = __m256;
using Places = __m256i;
using Mask = __m256;
using LaneSegments = Segments<3, 8, 9>;

FXMEM_INLINE __m128i load_halves(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
FXMEM_INLINE Lanes load_lanes(const float* from) { return _mm256_loadu_ps(from); }
FXMEM_INLINE Lanes load_lanes(const Float16* from) { return _mm256_cvtph_ps(load_halves(from)); }
FXMEM_INLINE Lanes load_lanes(const BFloat16* from) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_halves(from)), 16));
}

FXMEM_INLINE void store_halves(__m128i halves, void* to) {
  _mm_storeu_si128(static_cast<__m128i*>(to), halves);
}
FXMEM_INLINE void store_lanes(Lanes values, float* to) { _mm256_storeu_ps(to, values); }
FXMEM_INLINE void store_lanes(Lanes values, Float16* to) {
  store_halves(_mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT), to);
}
FXMEM_INLINE void store_lanes(Lanes values, BFloat16* to) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i kept = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7FC00000), is_nan);
  const __m256i high = _mm256_srli_epi32(kept, 16);
  store_halves(_mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)),
               to);
}

FXMEM_INLINE Lanes all_lanes(float value) { return _mm256_set1_ps(value); }
FXMEM_INLINE Lanes magnitudes(Lanes x) { return _mm256_andnot_ps(all_lanes(-0.0F), x); }
FXMEM_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return _mm256_fmadd_ps(a, b, c); }
FXMEM_INLINE Lanes square_roots(Lanes x) { return _mm256_sqrt_ps(x); }
// Of two operands, these give the second if one is NaN.
FXMEM_INLINE Lanes smaller(Lanes a, Lanes b) { return _mm256_min_ps(a, b); }
FXMEM_INLINE Lanes larger(Lanes a, Lanes b) { return _mm256_max_ps(a, b); }
FXMEM_INLINE Places places_of(Lanes x) { return _mm256_cvttps_epi32(x); }
FXMEM_INLINE Lanes numbers_of(Places x) { return _mm256_cvtepi32_ps(x); }

FXMEM_INLINE Mask above(Lanes a, Lanes b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
FXMEM_INLINE Mask not_below(Lanes a, Lanes b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
FXMEM_INLINE Mask without(Mask a, Mask b) { return _mm256_andnot_ps(b, a); }
FXMEM_INLINE Lanes chosen(Mask mask, Lanes yes, Lanes no) {
  return _mm256_blendv_ps(no, yes, mask);
}
FXMEM_INLINE Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
FXMEM_INLINE Lanes negated_unless(Mask mask, Lanes x) {
  return _mm256_xor_ps(x, _mm256_andnot_ps(mask, all_lanes(-0.0F)));
}
FXMEM_INLINE Lanes zero_where(Mask mask, Lanes x) { return _mm256_andnot_ps(mask, x); }
FXMEM_INLINE Mask mask_at(const uint8_t* stream) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  int32_t word;  // a broadcast from memory takes four bytes
  memcpy(&word, stream, 4);
  const __m256i its = _mm256_and_si256(_mm256_set1_epi32(word), bit);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(its, bit));
}

// A column of segments.
struct Column {
  __m256 table;
  void load(const float* from) { table = _mm256_loadu_ps(from); }
  Lanes at(Places places) const { return _mm256_permutevar8x32_ps(table, places); }
};

// Codes as places in two repeated tables: their lowest three bits count, and of 4-bit codes the
// highest says which table.
struct LevelLanes {
  __m256 low, high;
  __m256i shifts;
  bool two;
  LevelLanes(const float* levels, int bits) : two(bits == 4) {
    alignas(32) float repeated[2 * kLanes];
    alignas(32) int32_t places[kLanes];
    for (int i = 0; i < 2 * kLanes; ++i) repeated[i] = levels[i % (1 << bits)];
    for (int i = 0; i < kLanes; ++i) places[i] = i * bits;
    low = _mm256_load_ps(repeated);
    high = _mm256_load_ps(repeated + kLanes);
    shifts = _mm256_load_si256(reinterpret_cast<const __m256i*>(places));
  }
  Lanes at(const uint8_t* stream) const {
    int32_t word;
    memcpy(&word, stream, 4);
    const __m256i shifted = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
    const Lanes level = _mm256_permutevar8x32_ps(low, shifted);
    if (!two) return level;
    const Mask upper = _mm256_castsi256_ps(_mm256_slli_epi32(shifted, 28));
    return chosen(upper, _mm256_permutevar8x32_ps(high, shifted), level);
  }
};

// 32 codes, in the lanes of four vectors, as a stream.
template <int kBits>
FXMEM_INLINE void pack_lanes(const Places* codes, uint8_t* stream) {
  const __m256i halves = _mm256_packs_epi32(codes[0], codes[1]);
  const __m256i mixed = _mm256_packs_epi16(halves, _mm256_packs_epi32(codes[2], codes[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes = _mm256_permutevar8x32_epi32(mixed, order);
  constexpr int16_t kPair = 1 << kBits << 8 | 1;
  constexpr int32_t kFour = 1 << 2 * kBits << 16 | 1;
  const __m256i twos = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(kPair));
  const __m256i fours = _mm256_madd_epi16(twos, _mm256_set1_epi32(kFour));
  const __m256i eights = _mm256_or_si256(fours, _mm256_srli_epi64(fours, 32 - 4 * kBits));
  uint64_t units[4];
  memcpy(units, &eights, sizeof(units));
  for (int u = 0; u < 4; ++u) memcpy(stream + u * kBits, units + u, kBits);
}

// Borders as a search tree: those a code's upper bits choose among lie in one table.
template <int kBits>
struct BorderLanes {
  Lanes tables[kBits];
  explicit BorderLanes(const float* from) {
    for (int level = 0; level < kBits; ++level) {
      const int step = 1 << (kBits - level);
      alignas(32) float table[kLanes];
      for (int k = 0; k < kLanes; ++k) table[k] = from[k % (1 << level) * step + step / 2 - 1];
      tables[level] = _mm256_load_ps(table);
    }
  }
  Places rank(Lanes x) const {
    Places code = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int level = 0; level < kBits; ++level) {
      const Lanes border = level == 0 ? tables[0] : _mm256_permutevar8x32_ps(tables[level], code);
      const __m256i higher = _mm256_castps_si256(above(x, border));
      code = _mm256_sub_epi32(_mm256_add_epi32(code, code), higher);
    }
    return code;
  }
  void rank(const Lanes* x, uint8_t* stream) const {
    if constexpr (kBits == 1) {
      for (int v = 0; v < kRanked / kLanes; ++v)
        stream[v] = static_cast<uint8_t>(_mm256_movemask_ps(above(x[v], tables[0])));
      return;
    }
    const Places codes[] = {rank(x[0]), rank(x[1]), rank(x[2]), rank(x[3])};
    pack_lanes<kBits>(codes, stream);
  }
};

}  // namespace
}  // namespace fxmem
