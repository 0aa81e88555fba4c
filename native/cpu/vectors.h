// Vectors as wide as a register of the instruction set. Included by its kernels only.
#pragma once

#include "../arithmetic.h"

namespace fxmem {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename R>
struct Lanes {
  typedef R Vector __attribute__((vector_size(kVectorBytes), aligned(sizeof(R)), may_alias));
};

template <typename R>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(R));

template <typename R>
using Vector = typename Lanes<R>::Vector;

template <typename R>
FXMEM_INLINE Vector<R>& vector(R* x) {
  return *reinterpret_cast<Vector<R>*>(x);
}

template <typename R>
FXMEM_INLINE const Vector<R>& vector(const R* x) {
  return *reinterpret_cast<const Vector<R>*>(x);
}

// The sum of the lanes, by halves.
template <typename R>
FXMEM_INLINE R total(const Vector<R>& x) {
  R lanes[kLanes<R>];
  memcpy(lanes, &x, sizeof(lanes));
  for (int half = kLanes<R> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

}  // namespace
}  // namespace fxmem
