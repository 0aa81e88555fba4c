// Activations' functions on the CPU: branch-free, so that loops over them are vectorised, and
// without libm. `double` is what float32 is evaluated in, and `float` what bfloat16 and float16
// are: relative errors stay below 2^-28 and 2^-16, which leaves the rounding of the result.
// float64 is evaluated in `long double`, by libm. Include ../functions.h.
#pragma once

#include <cmath>

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

FXMEM_INLINE float multiply_add(float a, float b, float c) {
#ifdef __FMA__
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

FXMEM_INLINE double multiply_add(double a, double b, double c) {
#ifdef __FMA__
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// first + x * (next + x * (...)), by pairs of terms: half as many products wait for one another.
template <typename R, typename... Terms>
FXMEM_INLINE R polynomial(R x, Terms... terms) {
  constexpr int kLast = sizeof...(terms) - 1;
  const R term[] = {static_cast<R>(terms)...}, square = x * x;
  R sum = kLast % 2 == 0 ? term[kLast] : multiply_add(x, term[kLast], term[kLast - 1]);
#pragma GCC unroll 8
  for (int k = kLast - 2 - kLast % 2; k >= 0; k -= 2)
    sum = multiply_add(sum, square, multiply_add(x, term[k + 1], term[k]));
  return sum;
}

FXMEM_INLINE float abs_of(float x) { return __builtin_fabsf(x); }
FXMEM_INLINE double abs_of(double x) { return __builtin_fabs(x); }
FXMEM_INLINE float sqrt_of(float x) { return __builtin_sqrtf(x); }
FXMEM_INLINE double sqrt_of(double x) { return __builtin_sqrt(x); }
FXMEM_INLINE float with_sign(float x, float sign) { return __builtin_copysignf(x, sign); }
FXMEM_INLINE double with_sign(double x, double sign) { return __builtin_copysign(x, sign); }

// NaN passes both: no comparison with it holds.
template <typename R>
FXMEM_INLINE R at_most(R x, R limit) {
  return x > limit ? limit : x;
}
template <typename R>
FXMEM_INLINE R at_least(R x, R limit) {
  return x < limit ? limit : x;
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

template <typename R>
FXMEM_INLINE R exp_of(R x) {
  const Reduced<R> to = reduce(at_most(at_least(x, Format<R>::kExpLow), Format<R>::kExpHigh));
  // By two factors: one alone would overflow before the product does.
  constexpr Bits<R> kEven = Bits<R>{1} << 12;
  const Bits<R> half = ((to.power + kEven) >> 1) - kEven / 2;
  const R scaled = (1 + small_expm1(to.rest)) * power_of_two<R>(half);
  return scaled * power_of_two<R>(to.power - half);
}

template <typename R>
FXMEM_INLINE R expm1_of(R x) {
  constexpr R kMinusOne = -Format<R>::kFraction;  // from here on e^x no longer counts
  const Reduced<R> to = reduce(at_most(at_least(x, kMinusOne), Format<R>::kExpHigh));
  const R half = power_of_two<R>(to.power - 1);  // half, because 2^power may overflow
  const R result = multiply_add(half, small_expm1(to.rest), half - static_cast<R>(0.5));
  return result + result;
}

// (log((1 + s) / (1 - s)) - 2 s) / s^3 for the s of fractions in [sqrt(1/2), sqrt(2)).
FXMEM_INLINE float log_tail(float s2) {
  return polynomial(s2, 0.66666776339834415, 0.39977544359103254, 0.29871682554628168);
}

FXMEM_INLINE double log_tail(double s2) {
  return polynomial(s2, 0.66666665646463197, 0.40000335039505033, 0.28537314654008441,
                    0.23582080127842537);
}

// x = 2^power * fraction, for positive normal x.
template <typename R>
struct Split {
  R power, fraction, inverse;  // inverse: 2^-power, while that is normal
};

template <typename R>
FXMEM_INLINE Split<R> split(R x) {
  using F = Format<R>;
  const Bits<R> moved = bits_as<Bits<R>>(x) + (F::kOne - F::kHalfRoot);
  const Bits<R> power = (moved >> F::kFraction) - (F::kOne >> F::kFraction);
  const Bits<R> fraction = moved & ((Bits<R>{1} << F::kFraction) - 1);
  return {bits_as<R>(power + bits_as<Bits<R>>(kRounder<R>)) - kRounder<R>,
          bits_as<R>(fraction + F::kHalfRoot), power_of_two<R>(-power)};
}

// power * ln 2 + log(1 + f).
template <typename R>
FXMEM_INLINE R join_log(R power, R f) {
  const R s = f / (2 + f);
  const R log = multiply_add(s * s * s, log_tail(s * s), s + s);
  return multiply_add(power, static_cast<R>(0.69314718055994531), log);
}

// log of what is not a positive finite number is that of libm.
template <typename R>
FXMEM_INLINE R log_or_limit(R log, R x) {
  constexpr R kInfinity = std::numeric_limits<R>::infinity();
  const R positive = x < kInfinity ? log : x;
  const R other = x == 0 ? -kInfinity : std::numeric_limits<R>::quiet_NaN();
  return x > 0 ? positive : other;
}

template <typename R>
FXMEM_INLINE R log_of(R x) {
  const bool small = x < Format<R>::kSmallest;
  const Split<R> at = split(small ? x * Format<R>::kWhole : x);
  const R power = at.power - (small ? static_cast<R>(Format<R>::kFraction + 1) : R{0});
  return log_or_limit(join_log(power, at.fraction - 1), x);
}

template <typename R>
FXMEM_INLINE R log1p_of(R x) {
  const R sum = 1 + x;
  const Split<R> at = split(sum);
  // 1 + x has lost the end of a small x; x 2^-power + (2^-power - 1) has not.
  const R kept = multiply_add(x, at.inverse, at.inverse - 1);
  const R f = sum < Format<R>::kWhole ? kept : at.fraction - 1;
  return log_or_limit(join_log(at.power, f), sum);
}

template <typename R>
FXMEM_INLINE R tanh_of(R x) {
  const R e = expm1_of(2 * at_most(abs_of(x), R{20}));
  return with_sign(e / (e + 2), x);
}

FXMEM_INLINE long double abs_of(long double x) { return std::fabs(x); }
FXMEM_INLINE long double sqrt_of(long double x) { return std::sqrt(x); }
FXMEM_INLINE long double exp_of(long double x) { return std::exp(x); }
FXMEM_INLINE long double expm1_of(long double x) { return std::expm1(x); }
FXMEM_INLINE long double log_of(long double x) { return std::log(x); }
FXMEM_INLINE long double log1p_of(long double x) { return std::log1p(x); }
FXMEM_INLINE long double tanh_of(long double x) { return std::tanh(x); }

}  // namespace fxmem
