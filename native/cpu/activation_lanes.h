// Whole tiles in the lanes of AVX2 and AVX-512, where GCC finds no such instructions: codes from
// masks or by a tree of borders, and levels and polynomials by permutation. What the plain loops
// give, they give; they return false for what they do not do.
#pragma once

#if defined(__AVX512F__)
#include "activation_avx512.h"
#elif defined(__AVX2__)
#include "activation_avx2.h"
#else
#include "activation_segments.h"
#include "activation_tiles.h"
#endif

namespace fxmem {
namespace {

#if defined(__AVX2__)

template <typename T>
constexpr bool kHasLanes = !std::is_same_v<T, double>;

template <typename T>
bool classify_lanes(const T* x, const float* from, int bits, bool even, uint8_t* stream) {
  if (bits > 4) return false;
  with_constant<1, 2, 3, 4>(bits, [&](auto k) {
    const BorderLanes<k.value> borders(from);
    for (int i = 0; i < kTile; i += kRanked) {
      Lanes ranked[kRanked / kLanes];
#pragma GCC unroll 4
      for (int v = 0; v < kRanked / kLanes; ++v) {
        const Lanes lanes = load_lanes(x + i + v * kLanes);
        ranked[v] = even ? magnitudes(lanes) : lanes;
      }
      borders.rank(ranked, stream + i / 8 * k.value);
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
  const LevelLanes table(levels, bits);
  for (int i = 0; i < kTile; i += kLanes) {
    const Lanes level = table.at(stream.bytes + i / 8 * bits);
    store_lanes(grad == nullptr ? level : load_lanes(grad + i) * level, out + i);
  }
  return true;
}

struct SegmentLanes {
  Lanes lowest, lowest_rest, start, top, stretch, scale, offset;

  explicit SegmentLanes(const LaneSegments& on)
      : lowest(all_lanes(on.lowest)),
        lowest_rest(all_lanes(on.lowest_rest)),
        start(all_lanes(on.start)),
        top(all_lanes(on.top)),
        stretch(all_lanes(on.stretch)),
        scale(all_lanes(on.scale)),
        offset(all_lanes(on.offset)) {}
};

// As polynomial() of activation_functions.h.
FXMEM_INLINE Lanes polynomial_lanes(const Column* terms, Places segment, Lanes part) {
  constexpr int kLast = LaneSegments::kDegree;
  const auto pair = [&](int k) {
    return multiply_add(part, terms[k + 1].at(segment), terms[k].at(segment));
  };
  const Lanes square = part * part;
  Lanes sum = kLast % 2 == 0 ? terms[kLast].at(segment) : pair(kLast - 1);
#pragma GCC unroll 8
  for (int k = kLast - 2 - kLast % 2; k >= 0; k -= 2) sum = multiply_add(sum, square, pair(k));
  return sum;
}

// Slopes of y; right: on which branch.
FXMEM_INLINE Lanes slope_lanes(const SegmentLanes& on, const Column* terms, Lanes y, Mask right) {
  const Mask tail = without(above(y, on.start), right);
  const Lanes square = chosen(tail, y * on.stretch, y - on.lowest - on.lowest_rest);
  const Lanes root = square_roots(larger(all_lanes(0.0F), square));
  const Lanes offset = zero_where(tail, on.offset);
  const Lanes s = negated_unless(either(right, tail), root);
  constexpr float kEnd = LaneSegments::kAll * (1 - 0x1p-24F);
  const Lanes place = smaller(all_lanes(kEnd), multiply_add(s, on.scale, offset));
  const Places segment = places_of(place);
  const Lanes part = place - numbers_of(segment);
  const Lanes sum = polynomial_lanes(terms, segment, part);
  const Lanes slope = chosen(tail, sum * y, sum);
  return chosen(not_below(y, on.top), all_lanes(1.0F), slope);
}

template <typename T>
bool slope_lanes(const LaneSegments* on, const T* y, const uint8_t* branch, const T* grad, T* out) {
  if (on == nullptr) return false;
  const SegmentLanes lanes(*on);
  Column terms[LaneSegments::kDegree + 1];
  for (int k = 0; k <= LaneSegments::kDegree; ++k) terms[k].load(on->terms[k]);
  const Stream stream(branch, 1);
  for (size_t i = 0; i < kTile; i += kLanes) {
    const Mask right = mask_at(stream.bytes + i / 8);
    const Lanes slope = slope_lanes(lanes, terms, load_lanes(y + i), right);
    store_lanes(load_lanes(grad + i) * slope, out + i);
  }
  return true;
}

#else

template <typename T>
constexpr bool kHasLanes = false;
using LaneSegments = Segments<8, 32, 4>;

#endif

}  // namespace
}  // namespace fxmem
