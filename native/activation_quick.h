// Numbers whose functions are quicker, and right within an activation's reach: there e^x is a
// normal number, and the normal distribution's argument is near 0.
#pragma once

#include <utility>

#include "activation_polynomials.h"
#include "functions.h"

namespace fxmem {

// A quotient by the inverse, which those with one divisor share.
FXMEM_INLINE float quotient(float over, float under) { return over * (1 / under); }
FXMEM_INLINE double quotient(double over, double under) { return over / under; }

template <typename R>
struct Quick {
  R value;
  template <typename From>
  FXMEM_MEMBER explicit Quick(From from) : value(static_cast<R>(from)) {}
  template <typename To>
  FXMEM_MEMBER explicit operator To() const {
    return static_cast<To>(value);
  }

  FXMEM_MEMBER Quick operator-() const { return Quick(-value); }
  FXMEM_MEMBER Quick operator+(Quick other) const { return Quick(value + other.value); }
  FXMEM_MEMBER Quick operator-(Quick other) const { return Quick(value - other.value); }
  FXMEM_MEMBER Quick operator*(Quick other) const { return Quick(value * other.value); }
  FXMEM_MEMBER Quick operator/(Quick other) const { return Quick(quotient(value, other.value)); }
  FXMEM_MEMBER bool operator<(Quick other) const { return value < other.value; }
  FXMEM_MEMBER bool operator>(Quick other) const { return value > other.value; }
  FXMEM_MEMBER bool operator<=(Quick other) const { return value <= other.value; }
  FXMEM_MEMBER bool operator>=(Quick other) const { return value >= other.value; }
};

// Of the numbers, not of the structs: else GCC keeps those in memory.
template <typename R>
FXMEM_INLINE Quick<R> select(bool condition, Quick<R> yes, Quick<R> no) {
  return Quick<R>(condition ? yes.value : no.value);
}
// As the number's own: nothing is quicker.
#define FXMEM_AS_OF_VALUE(function)            \
  template <typename R>                        \
  FXMEM_INLINE Quick<R> function(Quick<R> x) { \
    return Quick<R>(function(x.value));        \
  }
FXMEM_AS_OF_VALUE(abs_of)
FXMEM_AS_OF_VALUE(sqrt_of)
FXMEM_AS_OF_VALUE(expm1_of)
FXMEM_AS_OF_VALUE(log_of)
FXMEM_AS_OF_VALUE(log1p_of)
FXMEM_AS_OF_VALUE(erf_of)
FXMEM_AS_OF_VALUE(tanh_of)
#undef FXMEM_AS_OF_VALUE

template <typename R>
FXMEM_INLINE Quick<R> exp_of(Quick<R> x) {
  const Reduced<R> to = reduce(x.value);
  return Quick<R>((1 + small_expm1(to.rest)) * power_of_two<R>(to.power));
}

FXMEM_INLINE Quick<float> normal_cdf_of(Quick<float> x) {
  const float q = near_normal_tail(abs_of(x.value));
  return Quick<float>(x.value > 0 ? 1 - q : q);
}

// A double has digits to spare for the difference, and selects take longer.
FXMEM_INLINE Quick<double> normal_cdf_of(Quick<double> x) {
  const double half = 0.5 - near_normal_tail(abs_of(x.value));
  const uint64_t sign = bits_as<uint64_t>(x.value) & bits_as<uint64_t>(-0.0);
  return Quick<double>(0.5 + bits_as<double>(bits_as<uint64_t>(half) ^ sign));
}

// A function's parameters, in what it is computed in.
template <typename F, typename R>
struct Parameters {
  R at[F::kParameters + 1];
  template <typename From>
  FXMEM_MEMBER explicit Parameters(const From* from)
      : Parameters(from, std::make_index_sequence<F::kParameters>{}) {}
  template <typename From, size_t... k>
  FXMEM_MEMBER Parameters([[maybe_unused]] const From* from, std::index_sequence<k...>)
      : at{static_cast<R>(from[k])..., static_cast<R>(0)} {}
};

// How large |x| may be for F of Quick<R>; below 0: nothing is near enough.
template <typename F, typename R>
FXMEM_INLINE R quick_reach(const R* parameters) {
  const R reach = F::reach(parameters);
  return reach > static_cast<R>(1e-30) && reach < static_cast<R>(1e30) ? reach : R{-1};
}

}  // namespace fxmem
