// Activations' functions on CUDA. Include ../functions.h.
#pragma once

namespace fxmem {

template <typename R>
FXMEM_INLINE R abs_of(R x) {
  return ::fabs(x);
}

template <typename R>
FXMEM_INLINE R sqrt_of(R x) {
  return ::sqrt(x);
}

template <typename R>
FXMEM_INLINE R exp_of(R x) {
  return ::exp(x);
}

template <typename R>
FXMEM_INLINE R expm1_of(R x) {
  return ::expm1(x);
}

template <typename R>
FXMEM_INLINE R log_of(R x) {
  return ::log(x);
}

template <typename R>
FXMEM_INLINE R log1p_of(R x) {
  return ::log1p(x);
}

template <typename R>
FXMEM_INLINE R erf_of(R x) {
  return ::erf(x);
}

template <typename R>
FXMEM_INLINE R tanh_of(R x) {
  return ::tanh(x);
}

template <typename R>
FXMEM_INLINE R normal_cdf_of(R x) {
  return ::normcdf(x);
}

}  // namespace fxmem
