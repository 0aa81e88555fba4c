// Shapes and checks of absmax quantization, before the work is done.
#pragma once

#include <optional>

#include "codec.h"

namespace fxmem {

struct Quantization {
  Tensor x;
  std::optional<Tensor> factor;
  Tensor codes, scale;
};

inline Quantization prepare_absmax(const Tensor& x, const std::optional<Tensor>& factor,
                                   bool by_column, int64_t levels,
                                   const std::optional<Tensor>& seed) {
  check(x.dim() == 2 && x.scalar_type() == ScalarType::Float,
        "fxmem::absmax: x must be a float32 matrix; got ", x.dim(), " dimensions of ",
        torch::headeronly::toString(x.scalar_type()));
  check(levels >= 1 && levels <= 127, "fxmem::absmax: levels must be 1 to 127; got ", levels);
  if (factor) {
    const int64_t wanted = x.size(by_column ? 0 : 1), got = factor->numel();
    const bool fits = by_column ? got == wanted : got > 0 && wanted % got == 0;
    check(factor->scalar_type() == ScalarType::Float && fits,
          "fxmem::absmax: factor must be float32, one a ", by_column ? "row" : "column or period",
          " of ", wanted, "; got ", got, " of ",
          torch::headeronly::toString(factor->scalar_type()));
    check_same_device("absmax", "factor", *factor, "x", x);
  }
  if (seed) {
    check(seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
          "fxmem::absmax: seed must be an int64 tensor of one element; got ", seed->numel(), " of ",
          torch::headeronly::toString(seed->scalar_type()));
    check_same_device("absmax", "seed", *seed, "x", x);
  }
  const Shape scales = by_column ? Shape{1, x.size(1)} : Shape{x.size(0), 1};
  return {torch::stable::contiguous(x),
          factor ? std::optional<Tensor>(torch::stable::contiguous(*factor)) : std::nullopt,
          torch::stable::new_empty(x, Shape{x.size(0), x.size(1)}, ScalarType::Char),
          torch::stable::new_empty(x, scales)};
}

}  // namespace fxmem
