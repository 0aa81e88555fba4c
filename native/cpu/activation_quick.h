// Numbers whose functions may decline, with NaN, where that makes them quicker. A loop over them is
// done again in plain ones if a NaN came out.
#pragma once

#include "../functions.h"

namespace fxmem {

template <typename R>
struct Quick {
  R value;
  template <typename From>
  explicit Quick(From from) : value(static_cast<R>(from)) {}
  explicit operator float() const { return static_cast<float>(value); }

  Quick operator-() const { return Quick(-value); }
  Quick operator+(Quick other) const { return Quick(value + other.value); }
  Quick operator-(Quick other) const { return Quick(value - other.value); }
  Quick operator*(Quick other) const { return Quick(value * other.value); }
  Quick operator/(Quick other) const { return Quick(value / other.value); }
  bool operator<(Quick other) const { return value < other.value; }
  bool operator>(Quick other) const { return value > other.value; }
  bool operator<=(Quick other) const { return value <= other.value; }
  bool operator>=(Quick other) const { return value >= other.value; }
};

// Of the numbers, not of the structs: else GCC keeps those in memory.
template <typename R>
FXMEM_INLINE Quick<R> select(bool condition, Quick<R> yes, Quick<R> no) {
  return Quick<R>(condition ? yes.value : no.value);
}
template <typename R>
FXMEM_INLINE Quick<R> abs_of(Quick<R> x) {
  return Quick<R>(abs_of(x.value));
}
template <typename R>
FXMEM_INLINE Quick<R> sqrt_of(Quick<R> x) {
  return Quick<R>(sqrt_of(x.value));
}
template <typename R>
FXMEM_INLINE Quick<R> expm1_of(Quick<R> x) {
  return Quick<R>(expm1_of(x.value));
}
template <typename R>
FXMEM_INLINE Quick<R> log_of(Quick<R> x) {
  return Quick<R>(log_of(x.value));
}
template <typename R>
FXMEM_INLINE Quick<R> log1p_of(Quick<R> x) {
  return Quick<R>(log1p_of(x.value));
}
template <typename R>
FXMEM_INLINE Quick<R> erf_of(Quick<R> x) {
  return Quick<R>(erf_of(x.value));
}
template <typename R>
FXMEM_INLINE Quick<R> tanh_of(Quick<R> x) {
  return Quick<R>(tanh_of(x.value));
}

// Declines where e^x is not a normal number.
template <typename R>
FXMEM_INLINE Quick<R> exp_of(Quick<R> x) {
  constexpr R kFar = sizeof(R) == 4 ? 87 : 708;
  const Reduced<R> to = reduce(x.value);
  const R result = (1 + small_expm1(to.rest)) * power_of_two<R>(to.power);
  return Quick<R>(abs_of(x.value) < kFar ? result : std::numeric_limits<R>::quiet_NaN());
}

// Declines far from 0.
template <typename R>
FXMEM_INLINE Quick<R> normal_cdf_of(Quick<R> x) {
  const R a = abs_of(x.value);
  const R q = a < kNear<R> ? near_normal_tail(a) : std::numeric_limits<R>::quiet_NaN();
  return Quick<R>(x.value > 0 ? 1 - q : q);
}

}  // namespace fxmem
