// The normal distribution and erf on the CPU; see activation_functions.h.
#pragma once

#include "activation_functions.h"

namespace fxmem {

// The standard normal distribution below -a, a >= 0: by its 8th, 16th or 64th root, which is almost
// a polynomial; neither exp nor a quotient is needed. 0 where a float of it is.
FXMEM_INLINE float normal_tail(float a) {
  const float v = multiply_add(at_most(a, 14.5F), 0.13793103448275862F, -1.0F);
  float q = polynomial(v, 0.63366145814798388, -0.5299750053430382, -0.034118684855684767,
                       0.1494215291637433, -0.020944566356254982, -0.022892504707478354,
                       0.0075191978785069034, 0.0007551427935301134, -0.00080109228732717741,
                       2.532006147063492e-7, 0.00095020691211840795, -0.00068891000180144554,
                       -0.000200455983725013, 0.00021749380062546043);
  for (int i = 0; i < 6; ++i) q *= q;
  return a > 14.5F ? 0.0F : q;
}

FXMEM_INLINE double normal_tail(double a) {
  const double v = multiply_add(at_most(a, 14.5), 1 / 4.625, -9.875 / 4.625);
  double far = polynomial(v, 0.44390846384600022, -0.31996840321878384, 0.041850434283539181,
                          0.025035892782760507, -0.0077912404563783159, -0.00060941100977077684,
                          0.00052378225542832976, -3.0846801088462566e-5, -1.6900226324609606e-5,
                          1.6805846947552016e-6, 8.158653786249835e-7, -2.1504665653521006e-7);
  for (int i = 0; i < 6; ++i) far *= far;
  return a < kNear<double> ? near_normal_tail(a) : (a > 14.5 ? 0.0 : far);
}

template <typename R>
FXMEM_INLINE R normal_cdf_of(R x) {
  const R q = normal_tail(abs_of(x));
  return x > 0 ? 1 - q : q;
}

FXMEM_INLINE float small_erf(float x2) {
  return polynomial(x2, 1.1283791213421544, -0.37612187922097721, 0.1127659635161284,
                    -0.02645945827970532, 0.0042645998691491093);
}

FXMEM_INLINE double small_erf(double x2) {
  return polynomial(x2, 1.1283791670831497, -0.37612638664026467, 0.11283784072966131,
                    -0.026865260702470968, 0.0052187567890746844, -0.00083930903856425047,
                    9.7179581406489155e-5);
}

template <typename R>
FXMEM_INLINE R erf_of(R x) {
  const R tail = normal_tail(abs_of(x) * static_cast<R>(1.4142135623730951));
  const R large = with_sign(1 - 2 * tail, x);
  return x * x < static_cast<R>(0.5) ? x * small_erf(x * x) : large;
}

FXMEM_INLINE long double erf_of(long double x) { return std::erf(x); }
FXMEM_INLINE long double normal_cdf_of(long double x) {
  return std::erfc(x * -0.70710678118654752440L) / 2;
}

}  // namespace fxmem
