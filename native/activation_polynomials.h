// Polynomials for functions of floats and doubles, on every device: `double` is what float32 is
// evaluated in, and `float` what bfloat16 and float16 are. Relative errors stay below 2^-28 and
// 2^-16, which leaves the rounding of the result. Branch-free, so that loops become vectors.
#pragma once

#include "arithmetic.h"

namespace fxmem {

template <typename R>
struct Format;

template <>
struct Format<float> {
  using Bits = uint32_t;
  static constexpr int kFraction = 23;
  static constexpr Bits kOne = 0x3F800000U, kHalfRoot = 0x3F3504F3U;  // 1 and sqrt(1/2)
  static constexpr float kLn2High = 0x1.62e4p-1F, kLn2Low = 0x1.7f7d1cp-20F;
  static constexpr float kExpLow = -104.0F, kExpHigh = 89.0F;
  static constexpr float kWhole = 0x1p24F;
  static constexpr float kSmallest = 0x1p-126F;
};

template <>
struct Format<double> {
  using Bits = uint64_t;
  static constexpr int kFraction = 52;
  static constexpr Bits kOne = 0x3FF0000000000000U, kHalfRoot = 0x3FE6A09E667F3BCDU;
  static constexpr double kLn2High = 0x1.62e42fefp-1, kLn2Low = 0x1.473de6af278edp-34;
  static constexpr double kExpLow = -746.0, kExpHigh = 710.0;
  static constexpr double kWhole = 0x1p53;
  static constexpr double kSmallest = 0x1p-1022;
};

template <typename R>
using Bits = typename Format<R>::Bits;

// Added and subtracted, leaves the nearest integer; until then it stands in the low bits.
template <typename R>
constexpr R kRounder = static_cast<R>(Bits<R>{3} << (Format<R>::kFraction - 1));

#ifdef __FMA__
FXMEM_INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FXMEM_INLINE double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
template <typename R>
FXMEM_INLINE R multiply_add(R a, R b, R c) {
  return a * b + c;  // nvcc makes it one operation
}
#endif

// first + x * (next + x * (...)), by pairs of terms: half as many products wait for one another.
template <typename R, typename... Terms>
FXMEM_INLINE R polynomial(R x, Terms... terms) {
  constexpr int kLast = sizeof...(terms) - 1;
  const R term[] = {static_cast<R>(terms)...}, square = x * x;
  R sum = kLast % 2 == 0 ? term[kLast] : multiply_add(x, term[kLast], term[kLast - 1]);
  FXMEM_UNROLL
  for (int k = kLast - 2 - kLast % 2; k >= 0; k -= 2)
    sum = multiply_add(sum, square, multiply_add(x, term[k + 1], term[k]));
  return sum;
}

template <typename R>
FXMEM_INLINE R power_of_two(Bits<R> power) {
  return bits_as<R>((power << Format<R>::kFraction) + Format<R>::kOne);
}

// x = power * ln 2 + rest, |rest| <= ln(2) / 2. A negative power is its complement.
template <typename R>
struct Reduced {
  Bits<R> power;
  R rest;
};

template <typename R>
FXMEM_INLINE Reduced<R> reduce(R x) {
  const R shifted = multiply_add(x, static_cast<R>(1.4426950408889634), kRounder<R>);
  const R power = shifted - kRounder<R>;
  const R rest = multiply_add(power, -Format<R>::kLn2High, x);
  return {bits_as<Bits<R>>(shifted) - bits_as<Bits<R>>(kRounder<R>),
          multiply_add(power, -Format<R>::kLn2Low, rest)};
}

// e^r - 1 for |r| <= ln(2) / 2; the polynomials here are minimax ones (Remez).
FXMEM_INLINE float small_expm1(float r) {
  const float tail = polynomial(r, 0.49999382166013629, 0.16666479474098076, 0.041874657440603157,
                                0.0083727897600359024);
  return multiply_add(r * r, tail, r);
}

FXMEM_INLINE double small_expm1(double r) {
  const double tail =
      polynomial(r, 0.50000000463817723, 0.16666666817083313, 0.04166635479163775,
                 0.0083332730555597684, 0.0013940997893832061, 0.00019914164189561246);
  return multiply_add(r * r, tail, r);
}

// As far as near_normal_tail goes.
template <typename R>
constexpr R kNear = static_cast<R>(5.25);

// As normal_tail, up to kNear; within 3e-7 of it, which is relatively 2^-16.
FXMEM_INLINE float near_normal_tail(float a) {
  float q = polynomial(a, 0.917004053408, -0.091458380932, -0.0319221819382, -0.000687661349536,
                       0.00152649975646, 1.61121425278e-5, -5.11551204736e-5, 4.68132845017e-6,
                       2.15886184929e-7, -5.05980051378e-8, 2.05465310988e-9);
  for (int i = 0; i < 3; ++i) q *= q;
  return q;
}

FXMEM_INLINE double near_normal_tail(double a) {
  double q = polynomial(a, 0.9170040428772599, -0.0914578974277359, -0.0319259117380236,
                        -0.0006762578264882135, 0.0015083090864789425, 3.337460036471846e-5,
                        -6.161245854674129e-5, 8.876108676842305e-6, -9.122227428974859e-7,
                        1.5063673561838338e-7, -2.079091573622675e-8, 1.4943542388341218e-9,
                        -4.286964789582739e-11);
  for (int i = 0; i < 3; ++i) q *= q;
  return q;
}

}  // namespace fxmem
