// Shapes and checks of a matrix's signs, before the work is done.
#pragma once

#include "codec.h"

namespace fxmem {

// Partial sums of a row's magnitudes, in double: as many on every device, so with the same bits.
constexpr int kSignLanes = 16;

struct Signs {
  Tensor x, bits, passes, magnitude;
};

inline Signs prepare_signs(const Tensor& x) {
  const ScalarType type = x.scalar_type();
  check(x.dim() == 2 && (type == ScalarType::Float || type == ScalarType::Double),
        "fxmem::signs: x must be a float32 or float64 matrix; got ", x.dim(), " dimensions of ",
        torch::headeronly::toString(type));
  const Shape bytes{ceil_div(x.numel(), 8)};
  return {torch::stable::contiguous(x), torch::stable::new_empty(x, bytes, ScalarType::Byte),
          torch::stable::new_empty(x, bytes, ScalarType::Byte),
          torch::stable::new_empty(x, Shape{x.size(0)}, type)};
}

}  // namespace fxmem
