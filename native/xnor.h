// Products of signs: shapes, checks and outputs, before and after a device does the work.
#pragma once

#include "codec.h"
#include "xnor_output.h"

namespace fxmem {

inline void check_rows(const char* op, const char* name, const Tensor& it) {
  check(it.dim() == 2 && it.scalar_type() == ScalarType::Byte && it.size(1) % 8 == 0, "fxmem::", op,
        ": ", name, " must be uint8 rows of whole 8-byte words; got ",
        words(Shape(it.sizes().begin(), it.sizes().end())), " of ",
        torch::headeronly::toString(it.scalar_type()));
}

inline void check_xnor(const char* op, const Tensor& a, const Tensor& b, int64_t n) {
  check_rows(op, "a", a);
  check_rows(op, "b", b);
  check(a.size(1) == b.size(1), "fxmem::", op, ": b must be rows of ", a.size(1),
        " bytes, as a's; got ", b.size(1));
  check(n >= 0 && n <= 8 * a.size(1), "fxmem::", op, ": n must be 0 to ", 8 * a.size(1), "; got ",
        n);
  check_same_device(op, "b", b, "a", a);
}

inline void check_scales(const char* name, const Tensor& it, int64_t rows, const Tensor& a) {
  const bool counted = it.numel() == 1 || (it.dim() == 1 && it.numel() == rows);
  check(counted && it.scalar_type() == ScalarType::Float, "fxmem::scaled_xnor_mm: ", name,
        " must be float32, 1 or ", rows, "; got ", it.numel(), " of ",
        torch::headeronly::toString(it.scalar_type()));
  check_same_device("scaled_xnor_mm", name, it, "a", a);
}

inline void check_scaled_xnor(const Tensor& a, const Tensor& b, int64_t n, const Tensor& left,
                              const Tensor& right) {
  check_xnor("scaled_xnor_mm", a, b, n);
  check_scales("left", left, a.size(0), a);
  check_scales("right", right, b.size(0), a);
}

// The operators, of a device whose kernel fills an output.
using XnorRun = void (*)(const Tensor& a, const Tensor& b, int64_t n, const XnorOutput& out);

template <XnorRun run>
Tensor xnor_mm(const Tensor& a, const Tensor& b, int64_t n) {
  check_xnor("xnor_mm", a, b, n);
  Tensor sums = torch::stable::new_empty(a, Shape{a.size(0), b.size(0)}, ScalarType::Int);
  XnorOutput out{};
  out.sums = static_cast<int32_t*>(sums.mutable_data_ptr());
  run(a, b, n, out);
  return sums;
}

template <XnorRun run>
Tensor scaled_xnor_mm(const Tensor& a, const Tensor& b, int64_t n, const Tensor& left,
                      const Tensor& right) {
  check_scaled_xnor(a, b, n, left, right);
  Tensor values = torch::stable::new_empty(a, Shape{a.size(0), b.size(0)}, ScalarType::Float);
  const Tensor scales = torch::stable::contiguous(left), others = torch::stable::contiguous(right);
  XnorOutput out{};
  out.values = static_cast<float*>(values.mutable_data_ptr());
  out.left = static_cast<const float*>(scales.const_data_ptr());
  out.right = static_cast<const float*>(others.const_data_ptr());
  out.left_step = left.numel() > 1;
  out.right_step = right.numel() > 1;
  run(a, b, n, out);
  return values;
}

}  // namespace fxmem
