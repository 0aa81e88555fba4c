// Shapes and checks of products of signs, before the work is done.
#pragma once

#include "codec.h"

namespace fxmem {

inline void check_rows(const char* name, const Tensor& it) {
  check(it.dim() == 2 && it.scalar_type() == ScalarType::Byte && it.size(1) % 8 == 0,
        "fxmem::xnor_mm: ", name, " must be uint8 rows of whole 8-byte words; got ",
        words(Shape(it.sizes().begin(), it.sizes().end())), " of ",
        torch::headeronly::toString(it.scalar_type()));
}

inline void check_xnor(const Tensor& a, const Tensor& b, int64_t n) {
  check_rows("a", a);
  check_rows("b", b);
  check(a.size(1) == b.size(1), "fxmem::xnor_mm: b must be rows of ", a.size(1),
        " bytes, as a's; got ", b.size(1));
  check(n >= 0 && n <= 8 * a.size(1), "fxmem::xnor_mm: n must be 0 to ", 8 * a.size(1), "; got ",
        n);
  check_same_device("xnor_mm", "b", b, "a", a);
}

}  // namespace fxmem
