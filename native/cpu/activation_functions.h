// Activations' functions on the CPU: branch-free, so that loops over them are vectorised, and
// without libm, but for float64, which is evaluated in `long double`. Include ../functions.h.
#pragma once

#include <cmath>

#include "../activation_polynomials.h"

namespace fxmem {

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
