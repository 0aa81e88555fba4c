// Shapes and checks of the bit stream, before CPU or CUDA does the work.
#pragma once

#include "codec.h"

namespace fxmem {

struct Packing {
  Tensor x, packed;
};

inline void check_bits(const char* op, int64_t bits) {
  check(bits >= 1 && bits <= 8, "fxmem::", op, ": bits must be 1 to 8; got ", bits);
}

inline Packing prepare_pack(const Tensor& x, int64_t bits) {
  check_bits("pack", bits);
  check(x.scalar_type() == ScalarType::Bool || x.scalar_type() == ScalarType::Byte,
        "fxmem::pack: x must be bool or uint8; got ", torch::headeronly::toString(x.scalar_type()));
  const Shape bytes{ceil_div(x.numel() * bits, 8)};
  return {in_memory_order(x), torch::stable::new_empty(x, bytes, ScalarType::Byte)};
}

inline Tensor prepare_unpack(const Tensor& packed, const Shape& size, const Shape& stride,
                             int64_t bits, ScalarType dtype) {
  check_bits("unpack", bits);
  check(dtype == ScalarType::Byte || (dtype == ScalarType::Bool && bits == 1),
        "fxmem::unpack: dtype must be uint8, or bool for one bit; got ",
        torch::headeronly::toString(dtype), " for bits ", bits);
  const int64_t bytes = ceil_div(count(size) * bits, 8);
  check(
      packed.scalar_type() == ScalarType::Byte && packed.numel() == bytes && packed.is_contiguous(),
      "fxmem::unpack: packed must be ", bytes, " contiguous Byte for size ", words(size),
      " and bits ", bits, "; got ", packed.numel(), " of ",
      torch::headeronly::toString(packed.scalar_type()));
  return empty_dense("unpack", packed, size, stride, dtype);
}

}  // namespace fxmem
