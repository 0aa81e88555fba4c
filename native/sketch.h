// Shapes and checks of sketches, before CPU or CUDA does the work; as fxmem/ops/sketches/checks.py.
#pragma once

#include "activations_checks.h"
#include "projection.h"

namespace fxmem {

struct Sketching {
  Tensor x, out;
  Projection kind;
  int64_t n, rows, width, stride;  // stride: from a row of x to the next
};

inline Projection projection_of(const std::string& kind) {
  static const char* const names[] = {"gaussian", "rademacher", "dct", "dft", "hadamard", "crs"};
  int found = 0;
  while (found < 6 && kind != names[found]) ++found;
  check(found < 6,
        "fxmem::sketch: kind must be one of gaussian, rademacher, dct, dft, hadamard, crs; got ",
        kind);
  return static_cast<Projection>(found);
}

inline Sketching prepare_sketch(const Tensor& x, const std::string& kind, int64_t rows,
                                const Tensor& seed) {
  const Projection projection = projection_of(kind);
  check(x.dim() == 2, "fxmem::sketch: x must be a matrix; got ", x.dim(), " dimensions");
  check_any_floating("sketch", "x", x.scalar_type());
  const int64_t n = x.size(0), width = x.size(1);
  check(rows >= std::min<int64_t>(n, 1) && rows <= n, "fxmem::sketch: rows must be 1 to ", n,
        ", the rows of x; got ", rows);
  check(seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
        "fxmem::sketch: seed must be an int64 tensor of one element; got ", seed.numel(), " of ",
        torch::headeronly::toString(seed.scalar_type()));
  check_same_device("sketch", "seed", seed, "x", x);
  const bool in_rows = x.stride(1) == 1 || width == 1;
  const Tensor taken = in_rows ? x : torch::stable::contiguous(x);
  return {taken,          torch::stable::new_empty(x, Shape{rows, width}, x.scalar_type()),
          projection,     n,
          rows,           width,
          taken.stride(0)};
}

}  // namespace fxmem
