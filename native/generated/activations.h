// Written by `python -m fxmem.activations.codegen` from fxmem/activations/table.py: edit that.
#pragma once

#include <cstdint>
#include <string>

#include "../functions.h"

// Functors of one activation each; `p` points to the parameters. Where kStepwise, `code` says which
// of the distinct slopes x has. Parameters are then rounded to x's dtype first, as torch does,
// since saturated outputs are known by them. `slope_from_output` is right where `invertible`. Where
// kQuick, and |x| is at most `reach`, quicker functions serve `value` and `slope`.
namespace fxmem {

struct Relu {
  static constexpr const char* kName = "relu";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = true;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return select((x <= FXMEM_REAL(0)), FXMEM_REAL(0), x);
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    return select((x <= FXMEM_REAL(0)), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE int32_t code(R x, const R* /*p*/) {
    return static_cast<int32_t>(select((x <= FXMEM_REAL(0)), FXMEM_REAL(0), FXMEM_REAL(1)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return select((y <= FXMEM_REAL(0)), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct LeakyRelu {
  static constexpr const char* kName = "leaky_relu";
  static constexpr int kParameters = 1;
  static constexpr bool kStepwise = true;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* p) {
    const R negative_slope = p[0];
    return select((x <= FXMEM_REAL(0)), (negative_slope * x), x);
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* p) {
    const R negative_slope = p[0];
    return select((x <= FXMEM_REAL(0)), negative_slope, FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE int32_t code(R x, const R* /*p*/) {
    return static_cast<int32_t>(select((x <= FXMEM_REAL(0)), FXMEM_REAL(0), FXMEM_REAL(1)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* p) {
    const R negative_slope = p[0];
    return select((y <= FXMEM_REAL(0)), negative_slope, FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* p) {
    const R negative_slope = p[0];
    return (negative_slope > FXMEM_REAL(0));
  }
};

struct Threshold {
  static constexpr const char* kName = "threshold";
  static constexpr int kParameters = 2;
  static constexpr bool kStepwise = true;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* p) {
    const R threshold = p[0];
    const R value = p[1];
    return select((threshold >= x), value, x);
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* p) {
    const R threshold = p[0];
    return select((threshold >= x), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE int32_t code(R x, const R* p) {
    const R threshold = p[0];
    return static_cast<int32_t>(select((threshold >= x), FXMEM_REAL(0), FXMEM_REAL(1)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* p) {
    const R value = p[1];
    return select((value >= y), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* p) {
    const R threshold = p[0];
    const R value = p[1];
    return (value <= threshold);
  }
};

struct Hardsigmoid {
  static constexpr const char* kName = "hardsigmoid";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = true;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return select((x <= FXMEM_REAL(-3)), FXMEM_REAL(0), select((x >= FXMEM_REAL(3)), FXMEM_REAL(1), ((FXMEM_REAL(3) + x) / FXMEM_REAL(6))));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    return select(((x <= FXMEM_REAL(-3)) | (x >= FXMEM_REAL(3))), FXMEM_REAL(0), FXMEM_REAL(0.166666666666666666667));
  }
  template <typename R>
  FXMEM_INLINE int32_t code(R x, const R* /*p*/) {
    return static_cast<int32_t>(select(((x <= FXMEM_REAL(-3)) | (x >= FXMEM_REAL(3))), FXMEM_REAL(0), FXMEM_REAL(1)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return select(((y <= FXMEM_REAL(0)) | (y >= FXMEM_REAL(1))), FXMEM_REAL(0), FXMEM_REAL(0.166666666666666666667));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Hardtanh {
  static constexpr const char* kName = "hardtanh";
  static constexpr int kParameters = 2;
  static constexpr bool kStepwise = true;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* p) {
    const R min_val = p[0];
    const R max_val = p[1];
    return select((min_val >= x), min_val, select((max_val <= x), max_val, x));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* p) {
    const R min_val = p[0];
    const R max_val = p[1];
    return select(((max_val <= x) | (min_val >= x)), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE int32_t code(R x, const R* p) {
    const R min_val = p[0];
    const R max_val = p[1];
    return static_cast<int32_t>(select(((max_val <= x) | (min_val >= x)), FXMEM_REAL(0), FXMEM_REAL(1)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* p) {
    const R min_val = p[0];
    const R max_val = p[1];
    return select(((max_val <= y) | (min_val >= y)), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Relu6 {
  static constexpr const char* kName = "relu6";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = true;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return select((x <= FXMEM_REAL(0)), FXMEM_REAL(0), select((x >= FXMEM_REAL(6)), FXMEM_REAL(6), x));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    return select(((x <= FXMEM_REAL(0)) | (x >= FXMEM_REAL(6))), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE int32_t code(R x, const R* /*p*/) {
    return static_cast<int32_t>(select(((x <= FXMEM_REAL(0)) | (x >= FXMEM_REAL(6))), FXMEM_REAL(0), FXMEM_REAL(1)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return select(((y <= FXMEM_REAL(0)) | (y >= FXMEM_REAL(6))), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Hardshrink {
  static constexpr const char* kName = "hardshrink";
  static constexpr int kParameters = 1;
  static constexpr bool kStepwise = true;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* p) {
    const R lambd = p[0];
    return select(((lambd >= (-x)) & (lambd >= x)), FXMEM_REAL(0), x);
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* p) {
    const R lambd = p[0];
    return select(((lambd >= (-x)) & (lambd >= x)), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE int32_t code(R x, const R* p) {
    const R lambd = p[0];
    return static_cast<int32_t>(select(((lambd >= (-x)) & (lambd >= x)), FXMEM_REAL(0), FXMEM_REAL(1)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return select(((y <= FXMEM_REAL(0)) & (y >= FXMEM_REAL(0))), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* p) {
    const R lambd = p[0];
    return (lambd >= FXMEM_REAL(0));
  }
};

struct Softshrink {
  static constexpr const char* kName = "softshrink";
  static constexpr int kParameters = 1;
  static constexpr bool kStepwise = true;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* p) {
    const R lambd = p[0];
    const auto t0 = (-x);
    return select(((lambd >= t0) & (lambd >= x)), FXMEM_REAL(0), select((x > FXMEM_REAL(0)), ((-lambd) - t0), (lambd + x)));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* p) {
    const R lambd = p[0];
    return select(((lambd >= (-x)) & (lambd >= x)), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE int32_t code(R x, const R* p) {
    const R lambd = p[0];
    return static_cast<int32_t>(select(((lambd >= (-x)) & (lambd >= x)), FXMEM_REAL(0), FXMEM_REAL(1)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return select(((y <= FXMEM_REAL(0)) & (y >= FXMEM_REAL(0))), FXMEM_REAL(0), FXMEM_REAL(1));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Celu {
  static constexpr const char* kName = "celu";
  static constexpr int kParameters = 1;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* p) {
    const R alpha = p[0];
    return (FXMEM_REAL(87) * abs_of(alpha));
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* p) {
    const R alpha = p[0];
    return select((x > FXMEM_REAL(0)), x, (alpha * expm1_of((x / alpha))));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* p) {
    const R alpha = p[0];
    return select((x > FXMEM_REAL(0)), FXMEM_REAL(1), exp_of((x / alpha)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* p) {
    const R alpha = p[0];
    return select((y > FXMEM_REAL(0)), FXMEM_REAL(1), (FXMEM_REAL(1) + (y / alpha)));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* p) {
    const R alpha = p[0];
    return (alpha > FXMEM_REAL(0));
  }
};

struct Elu {
  static constexpr const char* kName = "elu";
  static constexpr int kParameters = 1;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(87);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* p) {
    const R alpha = p[0];
    return select((x > FXMEM_REAL(0)), x, (alpha * expm1_of(x)));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* p) {
    const R alpha = p[0];
    return select((x > FXMEM_REAL(0)), FXMEM_REAL(1), (alpha * exp_of(x)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* p) {
    const R alpha = p[0];
    return select((y > FXMEM_REAL(0)), FXMEM_REAL(1), (alpha + y));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* p) {
    const R alpha = p[0];
    return (alpha > FXMEM_REAL(0));
  }
};

struct Gelu {
  static constexpr const char* kName = "gelu";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 2;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(5.25);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return (x * normal_cdf_of(x));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    const auto t0 = select(x < FXMEM_REAL(-10000), FXMEM_REAL(-10000), select(x > FXMEM_REAL(10000), FXMEM_REAL(10000), x));
    return ((FXMEM_REAL(0.39894228040143267794) * t0 * exp_of((-FXMEM_REAL(0.5) * (t0 * t0)))) + normal_cdf_of(x));
  }
  template <typename R>
  FXMEM_INLINE bool branch(R x, const R* /*p*/) {
    return (x > FXMEM_REAL(-0.751791524693564361392));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool branch, const R* /*p*/) {
    const auto t0 = ((y >= FXMEM_REAL(6.21333549508042981557)) & branch);
    const auto t1 = ((y - FXMEM_REAL(-0.16997121274471282959)) - FXMEM_REAL(5.26480917195648601137e-9));
    const auto t2 = select((t1 < FXMEM_REAL(0)), FXMEM_REAL(0), t1);
    const auto t3 = (y > FXMEM_REAL(-0.0849867896155890173437));
    const auto t4 = sqrt_of(select(branch, t2, select(t3, abs_of(y), t2)));
    const auto t5 = select((branch | t3), t4, (-t4));
    const auto t6 = (t5 - FXMEM_REAL(1.83172750473022460938));
    const auto t7 = (t6 * (FXMEM_REAL(0.555058465088788310915) + (t6 * (FXMEM_REAL(1.65285127816264942879) + (t6 * (FXMEM_REAL(2.20537735467719020477) + (t6 * (FXMEM_REAL(3.10422400249039531772) + (t6 * (FXMEM_REAL(2.71901600915717311935) + (t6 * (FXMEM_REAL(1.68861705675989659525) + (FXMEM_REAL(0.471928281465007648521) * t6)))))))))))));
    const auto t8 = ((y > FXMEM_REAL(1.12264839983338182705)) & branch);
    const auto t9 = (t5 - FXMEM_REAL(0.422706723213195800781));
    const auto t10 = (FXMEM_REAL(0.597183534880486699414) + (t9 * (FXMEM_REAL(2.17828625607192805091) + (t9 * (FXMEM_REAL(1.07239451633763560601) + (t9 * ((t9 * ((t9 * (FXMEM_REAL(1.51968643799624403279) + (t9 * (FXMEM_REAL(0.411892286343090496814) - (FXMEM_REAL(0.337618010876874430348) * t9))))) - FXMEM_REAL(1.23080921772905682587))) - FXMEM_REAL(2.49726435273252667102))))))));
    const auto t11 = (y >= FXMEM_REAL(0));
    const auto t12 = (t5 - FXMEM_REAL(0.145762473344802856445));
    const auto t13 = (FXMEM_REAL(1.16249279814204320438) + (t9 * (FXMEM_REAL(1.26976293343568502614) + (t9 * ((t9 * ((t9 * (FXMEM_REAL(0.408931003032569684308) + (t9 * (FXMEM_REAL(0.0823230415881373855935) + (t9 * ((FXMEM_REAL(0.0112870114930619259291) * t9) - FXMEM_REAL(0.0127515163503101620207))))))) - FXMEM_REAL(0.565809157747141133754))) - FXMEM_REAL(0.791459558968956922165))))));
    return (select(t0, FXMEM_REAL(1), select(t8, (FXMEM_REAL(0.272372994494774192317) + t7 + (t6 * ((t6 * (FXMEM_REAL(0.0519960798698234291648) + (t6 * ((t6 * (FXMEM_REAL(0.0296036492056295820474) + (t6 * (FXMEM_REAL(0.0687734454932261013438) + (t6 * ((FXMEM_REAL(0.0368352152236693097809) * t6) - FXMEM_REAL(0.0944368835214655505395))))))) - FXMEM_REAL(0.0783280998282154666823))))) - FXMEM_REAL(0.0159222876486812235652)))), select(branch, t10, select(t11, FXMEM_REAL(0), select(t3, (y * (FXMEM_REAL(1.75446985396916366184) + (t12 * (FXMEM_REAL(17.7865387035009554495) + (t12 * (FXMEM_REAL(3.23498640032651429976) + (t12 * ((t12 * ((FXMEM_REAL(877.183563924746977136) * t12) - FXMEM_REAL(249.769649380121279592))) - FXMEM_REAL(305.558546106076448723))))))))), t10))))) / select(t0, FXMEM_REAL(1), select(t8, (FXMEM_REAL(0.270428503748335380408) + t7), select(branch, t13, select(t11, FXMEM_REAL(1), select(t3, (FXMEM_REAL(0.769850383637703972184) + (t12 * (FXMEM_REAL(10.0084515119637131875) + (t12 * (FXMEM_REAL(26.302769023665007353) + (t12 * ((t12 * ((FXMEM_REAL(42.3521495935486740336) * t12) - FXMEM_REAL(291.062935334111330121))) - FXMEM_REAL(85.7341092433254203797)))))))), t13))))));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct GeluTanh {
  static constexpr const char* kName = "gelu_tanh";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 2;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(9.9863968193531036377);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    const auto t0 = (FXMEM_REAL(0.79788456080286535588) * (x + (FXMEM_REAL(0.044715) * (x * x * x))));
    const auto t1 = exp_of(-abs_of((FXMEM_REAL(2) * t0)));
    return (x * select((t0 >= FXMEM_REAL(0)), FXMEM_REAL(1), t1) / (FXMEM_REAL(1) + t1));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    const auto t0 = FXMEM_REAL(0.79788456080286535588);
    const auto t1 = (t0 * (x + (FXMEM_REAL(0.044715) * (x * x * x))));
    const auto t2 = exp_of(-abs_of((FXMEM_REAL(2) * t1)));
    const auto t3 = (FXMEM_REAL(1) + t2);
    const auto t4 = select(x < FXMEM_REAL(-10000), FXMEM_REAL(-10000), select(x > FXMEM_REAL(10000), FXMEM_REAL(10000), x));
    return ((select((t1 >= FXMEM_REAL(0)), FXMEM_REAL(1), t2) / t3) + (FXMEM_REAL(2) * t0 * t2 * t4 * (FXMEM_REAL(1) + (FXMEM_REAL(0.134145) * (t4 * t4))) / (t3 * t3)));
  }
  template <typename R>
  FXMEM_INLINE bool branch(R x, const R* /*p*/) {
    return (x > FXMEM_REAL(-0.752461422071016183821));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool branch, const R* /*p*/) {
    const auto t0 = ((y >= FXMEM_REAL(5.69694478616968158491)) & branch);
    const auto t1 = ((y - FXMEM_REAL(-0.170040756464004516602)) - FXMEM_REAL(5.89275045426163046614e-9));
    const auto t2 = select((t1 < FXMEM_REAL(0)), FXMEM_REAL(0), t1);
    const auto t3 = (y > FXMEM_REAL(-0.0850286488659220546227));
    const auto t4 = sqrt_of(select(branch, t2, select(t3, abs_of(y), t2)));
    const auto t5 = select((branch | t3), t4, (-t4));
    const auto t6 = (t5 - FXMEM_REAL(1.75608491897583007813));
    const auto t7 = (t6 * (FXMEM_REAL(0.210244780990039209501) + (t6 * (FXMEM_REAL(1.67608537293975823346) + (t6 * (FXMEM_REAL(1.19011403836589835237) + (t6 * (FXMEM_REAL(2.78318327505725271465) + (t6 * (FXMEM_REAL(2.26564269684393204685) + (t6 * (FXMEM_REAL(1.74417838974507621863) + (FXMEM_REAL(0.509169072663406274692) * t6)))))))))))));
    const auto t8 = ((y > FXMEM_REAL(1.01802382068359986711)) & branch);
    const auto t9 = (t5 - FXMEM_REAL(0.399207711219787597656));
    const auto t10 = (FXMEM_REAL(0.551872600015839931409) + (t9 * (FXMEM_REAL(2.16728164675237389147) + (t9 * (FXMEM_REAL(1.32695937903279204129) + (t9 * ((t9 * ((t9 * (FXMEM_REAL(1.46959597257825791417) + (t9 * (FXMEM_REAL(0.505600523224729370142) - (FXMEM_REAL(0.358621879727911208047) * t9))))) - FXMEM_REAL(1.52528345229723427678))) - FXMEM_REAL(2.40273018895665968486))))))));
    const auto t11 = (y >= FXMEM_REAL(0));
    const auto t12 = (t5 - FXMEM_REAL(0.145798355340957641602));
    const auto t13 = (FXMEM_REAL(1.14337659028373028747) + (t9 * (FXMEM_REAL(1.36517836809786130559) + (t9 * ((t9 * ((t9 * (FXMEM_REAL(0.393683158131340471542) + (t9 * (FXMEM_REAL(0.0800636291981941805584) + (t9 * ((FXMEM_REAL(0.00654459156646476202662) * t9) - FXMEM_REAL(0.0245316682015283352158))))))) - FXMEM_REAL(0.652285282674021194005))) - FXMEM_REAL(0.738347928775180184502))))));
    return (select(t0, FXMEM_REAL(1), select(t8, (FXMEM_REAL(0.380512674624348998242) + t7 + (t6 * ((t6 * (FXMEM_REAL(0.153836726918475774628) + (t6 * ((t6 * (FXMEM_REAL(0.0622165224514795514588) + (t6 * (FXMEM_REAL(0.263348613482867865976) + (t6 * ((FXMEM_REAL(0.12914146420920710745) * t6) - FXMEM_REAL(0.336579700447771690275))))))) - FXMEM_REAL(0.229756712728635570375))))) - FXMEM_REAL(0.046021981533862187097)))), select(branch, t10, select(t11, FXMEM_REAL(0), select(t3, (y * (FXMEM_REAL(1.73841873843340444239) + (t12 * (FXMEM_REAL(17.9690974587966394438) + (t12 * (FXMEM_REAL(6.60317283506146868177) + (t12 * ((t12 * ((FXMEM_REAL(800.143719794601224748) * t12) - FXMEM_REAL(286.462028544066185987))) - FXMEM_REAL(299.740007234461415919))))))))), t10))))) / select(t0, FXMEM_REAL(1), select(t8, (FXMEM_REAL(0.375105933063458851784) + t7), select(branch, t13, select(t11, FXMEM_REAL(1), select(t3, (FXMEM_REAL(0.74369544402348752854) + (t12 * (FXMEM_REAL(10.0205693088727780804) + (t12 * (FXMEM_REAL(29.0607152674905506728) + (t12 * ((t12 * ((FXMEM_REAL(18.1729446495809376927) * t12) - FXMEM_REAL(310.224770078503354398))) - FXMEM_REAL(77.9978047231732318778)))))))), t13))))));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Hardswish {
  static constexpr const char* kName = "hardswish";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 2;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return select((x <= FXMEM_REAL(-3)), FXMEM_REAL(0), select((x >= FXMEM_REAL(3)), x, (x * (FXMEM_REAL(3) + x) / FXMEM_REAL(6))));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    return select((x <= FXMEM_REAL(-3)), FXMEM_REAL(0), select((x >= FXMEM_REAL(3)), FXMEM_REAL(1), ((FXMEM_REAL(3) + (FXMEM_REAL(2) * x)) / FXMEM_REAL(6))));
  }
  template <typename R>
  FXMEM_INLINE bool branch(R x, const R* /*p*/) {
    return (x > FXMEM_REAL(-1.5));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool branch, const R* /*p*/) {
    const auto t0 = (y <= FXMEM_REAL(-0.375));
    const auto t1 = (sqrt_of((FXMEM_REAL(3) * (FXMEM_REAL(3) + (FXMEM_REAL(8) * y)))) / FXMEM_REAL(6));
    return select(branch, select(t0, FXMEM_REAL(0), select((y >= FXMEM_REAL(3)), FXMEM_REAL(1), t1)), select(((y >= FXMEM_REAL(0)) | t0), FXMEM_REAL(0), (-t1)));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Logsigmoid {
  static constexpr const char* kName = "logsigmoid";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(87);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return ((-select((x <= FXMEM_REAL(0)), (-x), FXMEM_REAL(0))) - log1p_of(exp_of(-abs_of(x))));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    const auto t0 = exp_of(-abs_of(x));
    return (select((x <= FXMEM_REAL(0)), FXMEM_REAL(1), t0) / (FXMEM_REAL(1) + t0));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return (-expm1_of(y));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Mish {
  static constexpr const char* kName = "mish";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 2;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(87);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    const auto t0 = exp_of(-abs_of(x));
    const auto t1 = (x >= FXMEM_REAL(0));
    const auto t2 = select(t1, (FXMEM_REAL(1) + (FXMEM_REAL(2) * t0)), (t0 * (FXMEM_REAL(2) + t0)));
    return (t2 * x / (t2 + select(t1, (FXMEM_REAL(2) * (t0 * t0)), FXMEM_REAL(2))));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    const auto t0 = exp_of(-abs_of(x));
    const auto t1 = (x >= FXMEM_REAL(0));
    const auto t2 = select(t1, (FXMEM_REAL(1) + (FXMEM_REAL(2) * t0)), (t0 * (FXMEM_REAL(2) + t0)));
    const auto t3 = (t0 * t0);
    const auto t4 = (t2 + select(t1, (FXMEM_REAL(2) * t3), FXMEM_REAL(2)));
    return ((t2 / t4) + (FXMEM_REAL(4) * (FXMEM_REAL(1) + t0) * select(t1, t3, t0) * select(x < FXMEM_REAL(-10000), FXMEM_REAL(-10000), select(x > FXMEM_REAL(10000), FXMEM_REAL(10000), x)) / (t4 * t4)));
  }
  template <typename R>
  FXMEM_INLINE bool branch(R x, const R* /*p*/) {
    return (x > FXMEM_REAL(-1.19243121451549516365));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool branch, const R* /*p*/) {
    const auto t0 = ((y >= FXMEM_REAL(11.0830381604080745461)) & branch);
    const auto t1 = ((y - FXMEM_REAL(-0.308843404054641723633)) - FXMEM_REAL(-8.96260871074971987582e-9));
    const auto t2 = select((t1 < FXMEM_REAL(0)), FXMEM_REAL(0), t1);
    const auto t3 = (y > FXMEM_REAL(-0.154428033285210569714));
    const auto t4 = sqrt_of(select(branch, t2, select(t3, abs_of(y), t2)));
    const auto t5 = select((branch | t3), t4, (-t4));
    const auto t6 = (t5 - FXMEM_REAL(2.27825069427490234375));
    const auto t7 = (t6 * (FXMEM_REAL(0.437596067580965142341) + (t6 * (FXMEM_REAL(0.764401028099370716262) + (t6 * (FXMEM_REAL(0.843705709634357536864) + (t6 * (FXMEM_REAL(0.641886295420418639956) + (t6 * (FXMEM_REAL(0.327887506132291173255) + (t6 * (FXMEM_REAL(0.102961804304875101379) + (FXMEM_REAL(0.0148327334774445551008) * t6)))))))))))));
    const auto t8 = ((y > FXMEM_REAL(1.08666207986327556512)) & branch);
    const auto t9 = (t5 - FXMEM_REAL(0.394178956747055053711));
    const auto t10 = (FXMEM_REAL(0.480862637389012914646) + (t9 * (FXMEM_REAL(1.73643734838039742741) + (t9 * (FXMEM_REAL(0.78270026443695117635) + (t9 * ((t9 * ((t9 * (FXMEM_REAL(0.968841249064844145522) + (t9 * (FXMEM_REAL(0.172069117177337388425) - (FXMEM_REAL(0.199586227851700992453) * t9))))) - FXMEM_REAL(0.666236108489586809078))) - FXMEM_REAL(1.73649916914891755404))))))));
    const auto t11 = (y >= FXMEM_REAL(0));
    const auto t12 = (t5 - FXMEM_REAL(0.196487501263618469238));
    const auto t13 = (FXMEM_REAL(1.18745974264192422076) + (t9 * (FXMEM_REAL(0.748523229567083503433) + (t9 * ((t9 * (FXMEM_REAL(0.0245457232131678394771) + (t9 * (FXMEM_REAL(0.195897967642614495576) + (t9 * ((t9 * (FXMEM_REAL(0.0294794706276929052713) - (FXMEM_REAL(0.00838430302568230270688) * t9))) - FXMEM_REAL(0.0545878299524795579378))))))) - FXMEM_REAL(0.703224660488814268255))))));
    return (select(t0, FXMEM_REAL(1), select(t8, (FXMEM_REAL(0.135693311454910160913) + t7 + (t6 * ((t6 * (FXMEM_REAL(0.00120562588132783069308) + (t6 * ((t6 * (FXMEM_REAL(0.0000764665686588590382423) + (t6 * (FXMEM_REAL(0.000625451864274436807219) + (t6 * ((FXMEM_REAL(0.000129250621394670037754) * t6) - FXMEM_REAL(0.000500532054031292065847))))))) - FXMEM_REAL(0.00103890348466794562622))))) - FXMEM_REAL(0.000630638920630774294299)))), select(branch, t10, select(t11, FXMEM_REAL(0), select(t3, (y * (FXMEM_REAL(0.781113493735300590259) + (t12 * (FXMEM_REAL(5.30891907618599745433) + (t12 * ((t12 * ((t12 * ((FXMEM_REAL(149.397111585785552279) * t12) - FXMEM_REAL(5.1500979927377423806))) - FXMEM_REAL(61.3151997850759471476))) - FXMEM_REAL(3.8142229861028633664))))))), t10))))) / select(t0, FXMEM_REAL(1), select(t8, (FXMEM_REAL(0.135559947012849235648) + t7), select(branch, t13, select(t11, FXMEM_REAL(1), select(t3, (FXMEM_REAL(0.990426840783031114945) + (t12 * (FXMEM_REAL(7.49370572248123956172) + (t12 * (FXMEM_REAL(1.57433785363758316223) + (t12 * ((t12 * ((FXMEM_REAL(138.427003543673833974) * t12) - FXMEM_REAL(37.244360090629911042))) - FXMEM_REAL(68.8053995926293566754)))))))), t13))))));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Selu {
  static constexpr const char* kName = "selu";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(87);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return select((x > FXMEM_REAL(0)), (FXMEM_REAL(1.05070098735548049342) * x), (FXMEM_REAL(1.75809934084737685994) * expm1_of(x)));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    return select((x > FXMEM_REAL(0)), FXMEM_REAL(1.05070098735548049342), (FXMEM_REAL(1.75809934084737685994) * exp_of(x)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return select((y > FXMEM_REAL(0)), FXMEM_REAL(1.05070098735548049342), (FXMEM_REAL(1.75809934084737685994) + y));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(87);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    const auto t0 = exp_of(-abs_of(x));
    return (select((x >= FXMEM_REAL(0)), FXMEM_REAL(1), t0) / (FXMEM_REAL(1) + t0));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    const auto t0 = exp_of(-abs_of(x));
    return (t0 / ((FXMEM_REAL(1) + t0) * (FXMEM_REAL(1) + t0)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return (y * (FXMEM_REAL(1) - y));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Silu {
  static constexpr const char* kName = "silu";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 2;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(87);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    const auto t0 = exp_of(-abs_of(x));
    return (x * select((x >= FXMEM_REAL(0)), FXMEM_REAL(1), t0) / (FXMEM_REAL(1) + t0));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    const auto t0 = exp_of(-abs_of(x));
    const auto t1 = (FXMEM_REAL(1) + t0);
    return ((select((x >= FXMEM_REAL(0)), FXMEM_REAL(1), t0) / t1) + (t0 * select(x < FXMEM_REAL(-10000), FXMEM_REAL(-10000), select(x > FXMEM_REAL(10000), FXMEM_REAL(10000), x)) / (t1 * t1)));
  }
  template <typename R>
  FXMEM_INLINE bool branch(R x, const R* /*p*/) {
    return (x > FXMEM_REAL(-1.27846454276107368564));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool branch, const R* /*p*/) {
    const auto t0 = ((y >= FXMEM_REAL(21.4379894978971030639)) & branch);
    const auto t1 = ((y - FXMEM_REAL(-0.278464555740356445313)) - FXMEM_REAL(1.29792826486507806294e-8));
    const auto t2 = select((t1 < FXMEM_REAL(0)), FXMEM_REAL(0), t1);
    const auto t3 = (y > FXMEM_REAL(-0.139232510677571447166));
    const auto t4 = sqrt_of(select(branch, t2, select(t3, abs_of(y), t2)));
    const auto t5 = select((branch | t3), t4, (-t4));
    const auto t6 = (t5 - FXMEM_REAL(3.26206421852111816406));
    const auto t7 = (t6 * (FXMEM_REAL(0.40239954379687431496) + (t6 * (FXMEM_REAL(0.498821746086479445026) + (t6 * (FXMEM_REAL(0.395261686730721484295) + (t6 * (FXMEM_REAL(0.213277700328748376357) + (t6 * (FXMEM_REAL(0.0767681523435125023891) + (t6 * (FXMEM_REAL(0.0168062695456656155391) + (FXMEM_REAL(0.00170798198593031993336) * t6)))))))))))));
    const auto t8 = ((y > FXMEM_REAL(3.19616810391570282945)) & branch);
    const auto t9 = (t5 - FXMEM_REAL(0.745449304580688476563));
    const auto t10 = (FXMEM_REAL(0.760399757754082306072) + (t9 * (FXMEM_REAL(1.10171126523263773755) + (t9 * ((t9 * ((t9 * (FXMEM_REAL(0.413563884097998379907) + (t9 * (FXMEM_REAL(0.0698655239151463880454) + (t9 * ((FXMEM_REAL(0.0211335851217915524081) * t9) - FXMEM_REAL(0.0840327023777154014095))))))) - FXMEM_REAL(0.42067214630967231237))) - FXMEM_REAL(0.374111134651984811317))))));
    const auto t11 = (y >= FXMEM_REAL(0));
    const auto t12 = (t5 - FXMEM_REAL(0.186570197343826293945));
    const auto t13 = (FXMEM_REAL(1.05733581354310945954) + (t9 * (FXMEM_REAL(0.156864725560732720666) + (t9 * ((t9 * (FXMEM_REAL(0.212756804529129039949) + (t9 * (FXMEM_REAL(0.0100704678623816969163) + (t9 * (FXMEM_REAL(0.025607056209044732481) + (t9 * (FXMEM_REAL(0.0046750344454716957765) + (FXMEM_REAL(0.00252579676702617246867) * t9))))))))) - FXMEM_REAL(0.105672195439789395888))))));
    return (select(t0, FXMEM_REAL(1), select(t8, (FXMEM_REAL(0.167861076906528038685) + t7 + (t6 * ((t6 * (FXMEM_REAL(0.000239578155320203397107) + (t6 * ((t6 * (FXMEM_REAL(0.0000300755967324895351594) + (t6 * (FXMEM_REAL(0.0000288570887178813672842) + (t6 * ((FXMEM_REAL(0.00000390232902635199294979) * t6) - FXMEM_REAL(0.0000198524760007956835371))))))) - FXMEM_REAL(0.000161612098128172468336))))) - FXMEM_REAL(0.000170055568892574308351)))), select(branch, t10, select(t11, FXMEM_REAL(0), select(t3, (y * (FXMEM_REAL(0.748647908428400232772) + (t12 * (FXMEM_REAL(6.26855499509672497993) + (t12 * ((t12 * ((t12 * ((FXMEM_REAL(362.584098028754112875) * t12) - FXMEM_REAL(39.9651980937577988584))) - FXMEM_REAL(94.3380094763808756397))) - FXMEM_REAL(1.76031905812307476467))))))), t10))))) / select(t0, FXMEM_REAL(1), select(t8, (FXMEM_REAL(0.167811458454477202551) + t7), select(branch, t13, select(t11, FXMEM_REAL(1), select(t3, (FXMEM_REAL(0.94650553984963103904) + (t12 * (FXMEM_REAL(8.70031151058857865621) + (t12 * (FXMEM_REAL(5.70771529281370693099) + (t12 * ((t12 * ((FXMEM_REAL(327.800727941239244956) * t12) - FXMEM_REAL(100.897149013569716658))) - FXMEM_REAL(103.861963685396545998)))))))), t13))))));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Softplus {
  static constexpr const char* kName = "softplus";
  static constexpr int kParameters = 2;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* p) {
    const R beta = p[0];
    return (FXMEM_REAL(87) / abs_of(beta));
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* p) {
    const R beta = p[0];
    const R threshold = p[1];
    const auto t0 = (beta * x);
    return select((t0 > threshold), x, ((select((t0 >= FXMEM_REAL(0)), t0, FXMEM_REAL(0)) + log1p_of(exp_of(-abs_of(t0)))) / beta));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* p) {
    const R beta = p[0];
    const R threshold = p[1];
    const auto t0 = (beta * x);
    const auto t1 = exp_of(-abs_of(t0));
    return select((t0 > threshold), FXMEM_REAL(1), (select((t0 >= FXMEM_REAL(0)), FXMEM_REAL(1), t1) / (FXMEM_REAL(1) + t1)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* p) {
    const R beta = p[0];
    return (-expm1_of((-beta * y)));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* p) {
    const R threshold = p[1];
    return (threshold >= FXMEM_REAL(16));
  }
};

struct Softsign {
  static constexpr const char* kName = "softsign";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return (x / (FXMEM_REAL(1) + abs_of(x)));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    return (FXMEM_REAL(1) / ((FXMEM_REAL(1) + abs_of(x)) * (FXMEM_REAL(1) + abs_of(x))));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return ((FXMEM_REAL(1) - abs_of(y)) * (FXMEM_REAL(1) - abs_of(y)));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Tanh {
  static constexpr const char* kName = "tanh";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(43.5);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return tanh_of(x);
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    const auto t0 = exp_of(-abs_of((FXMEM_REAL(2) * x)));
    return (FXMEM_REAL(4) * t0 / ((FXMEM_REAL(1) + t0) * (FXMEM_REAL(1) + t0)));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return ((FXMEM_REAL(1) - y) * (FXMEM_REAL(1) + y));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Tanhshrink {
  static constexpr const char* kName = "tanhshrink";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    const auto t0 = (x * x);
    const auto t1 = (FXMEM_REAL(1.52734930856705882506e-9) * t0);
    return select((abs_of(x) < FXMEM_REAL(1)), ((x * x * x) * (FXMEM_REAL(0.00000109205475562544705992) * (FXMEM_REAL(305235) + (t0 * (FXMEM_REAL(22491) + (t0 * (FXMEM_REAL(405) + (t0 * (FXMEM_REAL(2) + (FXMEM_REAL(915705) * t1))))))))) / (FXMEM_REAL(1) + (t0 * (FXMEM_REAL(7.56037907740694118403e-7) * (FXMEM_REAL(626535) + (t0 * (FXMEM_REAL(38220) + (t0 * (FXMEM_REAL(637) + (FXMEM_REAL(3) * t0 * (FXMEM_REAL(1) + (FXMEM_REAL(440895) * t1)))))))))))), (x - tanh_of(x)));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    return (tanh_of(x) * tanh_of(x));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    const auto t0 = abs_of(y);
    const auto t1 = (t0 >= FXMEM_REAL(8.90345000500037464519));
    const auto t2 = exp_of((log_of(t0) / FXMEM_REAL(3)));
    const auto t3 = (t2 - FXMEM_REAL(1.50264871120452880859));
    const auto t4 = (t3 * (FXMEM_REAL(1.14522188157190574209) + (t3 * (FXMEM_REAL(2.57598109067210945256) + (t3 * (FXMEM_REAL(3.49750716301420894183) + (t3 * (FXMEM_REAL(3.67253287539853134902) + (t3 * (FXMEM_REAL(2.51148009447480768941) + (t3 * (FXMEM_REAL(1.10513863110012189317) + (FXMEM_REAL(0.195485076254602291312) * t3)))))))))))));
    const auto t5 = (t0 > FXMEM_REAL(0.811326881796420762427));
    const auto t6 = (t2 - FXMEM_REAL(0.466339230537414550781));
    return (select(t1, FXMEM_REAL(1), select(t5, (FXMEM_REAL(0.424135682181404539796) + t4 + (t3 * (FXMEM_REAL(0.00281770421490825512256) + (t3 * ((t3 * (FXMEM_REAL(0.0377849057246578759472) + (t3 * ((t3 * (FXMEM_REAL(0.0707638503396675194734) + (t3 * ((FXMEM_REAL(0.0121751561062998728963) * t3) - FXMEM_REAL(0.0440710409729081001307))))) - FXMEM_REAL(0.0654967403121234914565))))) - FXMEM_REAL(0.0135872792616594777887)))))), (FXMEM_REAL(0.347534355897751001674) + (t6 * (FXMEM_REAL(1.07956400406551167315) + (t6 * (FXMEM_REAL(0.0153540582925081273841) + (t6 * ((t6 * (FXMEM_REAL(1.12699244313001134543) + (t6 * (FXMEM_REAL(0.205813234223991309291) - (FXMEM_REAL(0.167414214261474569856) * t6))))) - FXMEM_REAL(1.04057236817535603279)))))))))) / select(t1, FXMEM_REAL(1), select(t5, (FXMEM_REAL(0.424395297291146889052) + t4), (FXMEM_REAL(0.921360149066685396591) + (t6 * ((t6 * (FXMEM_REAL(0.675836095129133007653) + (t6 * ((t6 * (FXMEM_REAL(0.278867490543254825663) + (t6 * (FXMEM_REAL(0.0270300347410492858291) + (FXMEM_REAL(0.0644225626997469158486) * t6))))) - FXMEM_REAL(0.0258465303022731122951))))) - FXMEM_REAL(0.370015906869259170175)))))));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct QuickGelu {
  static constexpr const char* kName = "quick_gelu";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 2;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(51.1163337250293772033);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    const auto t0 = exp_of(-abs_of((FXMEM_REAL(1.702) * x)));
    return (x * select((x >= FXMEM_REAL(0)), FXMEM_REAL(1), t0) / (FXMEM_REAL(1) + t0));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    const auto t0 = exp_of(-abs_of((FXMEM_REAL(1.702) * x)));
    const auto t1 = (FXMEM_REAL(1) + t0);
    return ((select((x >= FXMEM_REAL(0)), FXMEM_REAL(1), t0) / t1) + (FXMEM_REAL(1.702) * t0 * select(x < FXMEM_REAL(-10000), FXMEM_REAL(-10000), select(x > FXMEM_REAL(10000), FXMEM_REAL(10000), x)) / (t1 * t1)));
  }
  template <typename R>
  FXMEM_INLINE bool branch(R x, const R* /*p*/) {
    return (x > FXMEM_REAL(-0.751154255441288998263));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool branch, const R* /*p*/) {
    const auto t0 = ((y >= FXMEM_REAL(12.5957692198844988241)) & branch);
    const auto t1 = ((y - FXMEM_REAL(-0.163610190153121948242)) - FXMEM_REAL(5.1676837808933839824e-10));
    const auto t2 = select((t1 < FXMEM_REAL(0)), FXMEM_REAL(0), t1);
    const auto t3 = (y > FXMEM_REAL(-0.0818067336828553759442));
    const auto t4 = sqrt_of(select(branch, t2, select(t3, abs_of(y), t2)));
    const auto t5 = select((branch | t3), t4, (-t4));
    const auto t6 = (t5 - FXMEM_REAL(2.50041913986206054688));
    const auto t7 = (t6 * (FXMEM_REAL(0.524973031797917211172) + (t6 * (FXMEM_REAL(0.848994252964614726231) + (t6 * (FXMEM_REAL(0.877655197388080621224) + (t6 * (FXMEM_REAL(0.617823564471199238035) + (t6 * (FXMEM_REAL(0.290121492150966608925) + (t6 * (FXMEM_REAL(0.082860953486650304467) + (FXMEM_REAL(0.0109860528207719083948) * t6)))))))))))));
    const auto t8 = ((y > FXMEM_REAL(1.87789051608036072771)) & branch);
    const auto t9 = (t5 - FXMEM_REAL(0.571398973464965820313));
    const auto t10 = (FXMEM_REAL(0.760400924234837627402) + (t9 * (FXMEM_REAL(1.43729657250746400976) + (t9 * ((t9 * ((t9 * (FXMEM_REAL(1.19801434604846401832) + (t9 * (FXMEM_REAL(0.264030994177312849924) + (t9 * ((FXMEM_REAL(0.135935020162518072073) * t9) - FXMEM_REAL(0.414309788455576755162))))))) - FXMEM_REAL(0.9340696680594451351))) - FXMEM_REAL(0.636741019704595734297))))));
    const auto t11 = (y >= FXMEM_REAL(0));
    const auto t12 = (t5 - FXMEM_REAL(0.14300937950611114502));
    const auto t13 = (FXMEM_REAL(1.05733479261546903238) + (t9 * (FXMEM_REAL(0.204645754462855350431) + (t9 * ((t9 * (FXMEM_REAL(0.472413656243990009997) + (t9 * (FXMEM_REAL(0.0291727302660265870593) + (t9 * (FXMEM_REAL(0.0967740189657138594193) + (t9 * (FXMEM_REAL(0.0230497192367918324329) + (FXMEM_REAL(0.0162463650867107761711) * t9))))))))) - FXMEM_REAL(0.179851978209011054144))))));
    return (select(t0, FXMEM_REAL(1), select(t8, (FXMEM_REAL(0.167860922593128066601) + t7 + (t6 * ((t6 * (FXMEM_REAL(0.000407760303949202028775) + (t6 * ((t6 * (FXMEM_REAL(0.0000871229125477516888956) + (t6 * (FXMEM_REAL(0.000109055936109580915651) + (t6 * ((FXMEM_REAL(0.0000251004005622437171934) * t6) - FXMEM_REAL(0.0000978794583777842317623))))))) - FXMEM_REAL(0.000358848835027770606682))))) - FXMEM_REAL(0.000221854731913706461517)))), select(branch, t10, select(t11, FXMEM_REAL(0), select(t3, (y * (FXMEM_REAL(1.27769610491923057971) + (t12 * (FXMEM_REAL(13.8819468889077022311) + (t12 * ((t12 * ((t12 * ((FXMEM_REAL(2318.76965535047474987) * t12) - FXMEM_REAL(191.364234856481459701))) - FXMEM_REAL(355.321104088012077682))) - FXMEM_REAL(5.49639577581013316632))))))), t10))))) / select(t0, FXMEM_REAL(1), select(t8, (FXMEM_REAL(0.167811304373303271653) + t7), select(branch, t13, select(t11, FXMEM_REAL(1), select(t3, (FXMEM_REAL(0.949104140428169817945) + (t12 * (FXMEM_REAL(11.3257816270637263756) + (t12 * (FXMEM_REAL(9.39699142293071965071) + (t12 * ((t12 * ((FXMEM_REAL(1231.91793688740222024) * t12) - FXMEM_REAL(288.146156625255457584))) - FXMEM_REAL(230.083049256983258601)))))))), t13))))));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct SquaredRelu {
  static constexpr const char* kName = "squared_relu";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = false;
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return select((x <= FXMEM_REAL(0)), FXMEM_REAL(0), (x * x));
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    return select((x <= FXMEM_REAL(0)), FXMEM_REAL(0), (FXMEM_REAL(2) * x));
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return select((y <= FXMEM_REAL(0)), FXMEM_REAL(0), (FXMEM_REAL(2) * sqrt_of(y)));
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

struct Exp {
  static constexpr const char* kName = "exp";
  static constexpr int kParameters = 0;
  static constexpr bool kStepwise = false;
  static constexpr int kBranches = 1;
  static constexpr bool kQuick = true;
  template <typename R>
  FXMEM_INLINE R reach(const R* /*p*/) {
    return FXMEM_REAL(87);
  }
  template <typename R>
  FXMEM_INLINE R value(R x, const R* /*p*/) {
    return exp_of(x);
  }
  template <typename R>
  FXMEM_INLINE R slope(R x, const R* /*p*/) {
    return exp_of(x);
  }
  template <typename R>
  FXMEM_INLINE R slope_from_output(R y, bool /*branch*/, const R* /*p*/) {
    return y;
  }
  template <typename R>
  FXMEM_INLINE bool invertible(const R* /*p*/) {
    return true;
  }
};

// Calls with the functor of that name; false where there is none.
template <typename Call>
bool with_activation(const std::string& name, const Call& call) {
  if (name == Relu::kName) {
    call(Relu{});
    return true;
  }
  if (name == LeakyRelu::kName) {
    call(LeakyRelu{});
    return true;
  }
  if (name == Threshold::kName) {
    call(Threshold{});
    return true;
  }
  if (name == Hardsigmoid::kName) {
    call(Hardsigmoid{});
    return true;
  }
  if (name == Hardtanh::kName) {
    call(Hardtanh{});
    return true;
  }
  if (name == Relu6::kName) {
    call(Relu6{});
    return true;
  }
  if (name == Hardshrink::kName) {
    call(Hardshrink{});
    return true;
  }
  if (name == Softshrink::kName) {
    call(Softshrink{});
    return true;
  }
  if (name == Celu::kName) {
    call(Celu{});
    return true;
  }
  if (name == Elu::kName) {
    call(Elu{});
    return true;
  }
  if (name == Gelu::kName) {
    call(Gelu{});
    return true;
  }
  if (name == GeluTanh::kName) {
    call(GeluTanh{});
    return true;
  }
  if (name == Hardswish::kName) {
    call(Hardswish{});
    return true;
  }
  if (name == Logsigmoid::kName) {
    call(Logsigmoid{});
    return true;
  }
  if (name == Mish::kName) {
    call(Mish{});
    return true;
  }
  if (name == Selu::kName) {
    call(Selu{});
    return true;
  }
  if (name == Sigmoid::kName) {
    call(Sigmoid{});
    return true;
  }
  if (name == Silu::kName) {
    call(Silu{});
    return true;
  }
  if (name == Softplus::kName) {
    call(Softplus{});
    return true;
  }
  if (name == Softsign::kName) {
    call(Softsign{});
    return true;
  }
  if (name == Tanh::kName) {
    call(Tanh{});
    return true;
  }
  if (name == Tanhshrink::kName) {
    call(Tanhshrink{});
    return true;
  }
  if (name == QuickGelu::kName) {
    call(QuickGelu{});
    return true;
  }
  if (name == SquaredRelu::kName) {
    call(SquaredRelu{});
    return true;
  }
  if (name == Exp::kName) {
    call(Exp{});
    return true;
  }
  return false;
}

}  // namespace fxmem
