// An activation on a tile of elements that lie in L1: each function of each activation once, apart
// from how elements are stored and codes are packed, so that kernels add up and do not multiply.
#pragma once

#include <string>

#include "../activation_quick.h"
#include "../generated/activations.h"

namespace fxmem {

// S: float, or double for float64. Null where the activation has no such function.
template <typename S>
struct Curve {
  using Map = void (*)(const S* x, S* out, int n, const double* parameters);
  using Classify = void (*)(const S* x, uint8_t* codes, int n, const double* parameters);
  Map value;
  Map slope;
  Classify code;    // which of a piecewise linear activation's slopes
  Classify branch;  // 1 right of the extremum
  void (*slope_from_output)(const S* y, const uint8_t* branch, S* slope, int n,
                            const double* parameters);
  void (*gated)(const S* gate, const S* up, S* out, int n, const double* parameters);
  void (*gated_backward)(const S* grad, const S* gate, const S* up, S* gate_grad, S* up_grad, int n,
                         const double* parameters);
};

Curve<double> float64_curve(const std::string& function);

#ifdef FXMEM_ISA
namespace FXMEM_ISA {
Curve<float> float32_curve(const std::string& function);
Curve<float> float16_curve(const std::string& function);  // for bfloat16, too
}  // namespace FXMEM_ISA
#endif

namespace {

// Whether all of x lies within `reach`; NaN does not.
template <typename S>
bool within(S reach, const S* x, int n) {
  int beyond = 0;
  for (int i = 0; i < n; ++i) beyond |= (x[i] < 0 ? -x[i] : x[i]) <= reach ? 0 : 1;
  return beyond == 0;
}

// loop(Quick) if all of x lies within F's reach, else loop(R).
template <typename F, typename R, typename S, typename Loop>
void quickly(const S* x, int n, const double* parameters, const Loop& loop) {
  if constexpr (F::kQuick && sizeof(R) <= sizeof(double)) {
    const S reach = quick_reach<F>(Parameters<F, S>(parameters).at);
    if (within(reach, x, n)) return loop(Quick<R>(0));
  }
  loop(R{});
}

// S as in Curve; R is what it computes in, Q what it computes in from the output.
template <typename F, typename S, typename R, typename Q>
struct Loops {
  static void value(const S* x, S* __restrict out, int n, const double* parameters) {
    quickly<F, R>(x, n, parameters, [&](auto kind) {
      using Real = decltype(kind);
      const Parameters<F, Real> p(parameters);
      for (int i = 0; i < n; ++i) out[i] = static_cast<S>(F::value(static_cast<Real>(x[i]), p.at));
    });
  }

  static void slope(const S* x, S* __restrict out, int n, const double* parameters) {
    quickly<F, R>(x, n, parameters, [&](auto kind) {
      using Real = decltype(kind);
      const Parameters<F, Real> p(parameters);
      for (int i = 0; i < n; ++i) out[i] = static_cast<S>(F::slope(static_cast<Real>(x[i]), p.at));
    });
  }

  static void code(const S* x, uint8_t* __restrict codes, int n, const double* parameters) {
    const Parameters<F, R> p(parameters);
    for (int i = 0; i < n; ++i)
      codes[i] = static_cast<uint8_t>(F::code(static_cast<R>(x[i]), p.at));
  }

  static void branch(const S* x, uint8_t* __restrict codes, int n, const double* parameters) {
    const Parameters<F, R> p(parameters);
    for (int i = 0; i < n; ++i)
      codes[i] = static_cast<uint8_t>(F::branch(static_cast<R>(x[i]), p.at));
  }

  static void slope_from_output(const S* y, const uint8_t* branch, S* __restrict out, int n,
                                const double* parameters) {
    const Parameters<F, Q> p(parameters);
    for (int i = 0; i < n; ++i) {
      const bool right = F::kBranches == 2 && branch[i] != 0;
      out[i] = static_cast<S>(F::slope_from_output(static_cast<Q>(y[i]), right, p.at));
    }
  }

  static void gated(const S* gate, const S* up, S* __restrict out, int n,
                    const double* parameters) {
    quickly<F, R>(gate, n, parameters, [&](auto kind) {
      using Real = decltype(kind);
      const Parameters<F, Real> p(parameters);
      for (int i = 0; i < n; ++i) {
        const Real value = F::value(static_cast<Real>(gate[i]), p.at);
        out[i] = static_cast<S>(value * static_cast<Real>(up[i]));
      }
    });
  }

  static void gated_backward(const S* grad, const S* gate, const S* up, S* __restrict gate_grad,
                             S* __restrict up_grad, int n, const double* parameters) {
    quickly<F, R>(gate, n, parameters, [&](auto kind) {
      using Real = decltype(kind);
      const Parameters<F, Real> p(parameters);
      for (int i = 0; i < n; ++i) {
        const Real x = static_cast<Real>(gate[i]), g = static_cast<Real>(grad[i]);
        gate_grad[i] = static_cast<S>(g * static_cast<Real>(up[i]) * F::slope(x, p.at));
        up_grad[i] = static_cast<S>(g * F::value(x, p.at));
      }
    });
  }
};

template <typename S, typename R, typename Q>
Curve<S> find_curve(const std::string& function) {
  Curve<S> curve = {};
  with_activation(function, [&](auto f) {
    using F = decltype(f);
    using L = Loops<F, S, R, Q>;
    curve.value = L::value;
    curve.slope = L::slope;
    curve.gated = L::gated;
    curve.gated_backward = L::gated_backward;
    if constexpr (F::kStepwise) curve.code = L::code;
    if constexpr (F::kBranches == 2) curve.branch = L::branch;
    if constexpr (F::kBranches != 0) curve.slope_from_output = L::slope_from_output;
  });
  return curve;
}

}  // namespace
}  // namespace fxmem
