// The group codec's shapes and checks, before CPU or CUDA does the work.
#pragma once

#include <tuple>

#include "tensors.h"

namespace fxmem {

struct Encoding {
  Tensor x, codes, scales;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline void check_codec(const char* op, int64_t bits, int64_t group) {
  check(bits >= 2 && bits <= 8, "fxmem::", op, ": bits must be 2 to 8; got ", bits);
  check(group == 32 || group == 64 || group == 128 || group == 256, "fxmem::", op,
        ": group must be 32, 64, 128 or 256; got ", group);
}

inline Encoding prepare_encode(const Tensor& x, int64_t bits, int64_t group,
                               const std::optional<Tensor>& seed) {
  check_codec("encode", bits, group);
  check(is_floating(x.scalar_type()), "fxmem::encode: x must be float32, bfloat16 or float16; got ",
        torch::headeronly::toString(x.scalar_type()));
  if (seed.has_value()) {
    check(seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
          "fxmem::encode: seed must be an int64 tensor of one element; got ", seed->numel(), " of ",
          torch::headeronly::toString(seed->scalar_type()));
    check_same_device("encode", "seed", *seed, "x", x);
  }
  const int64_t n = x.numel();
  const int64_t groups = ceil_div(n, group);
  const auto code_type = bits == 8 ? ScalarType::Char : ScalarType::Byte;
  const Shape code_size{ceil_div(n * bits, 8)};
  const Shape scale_size = bits == 8 ? Shape{groups} : Shape{groups, 2};
  return {in_memory_order(x), torch::stable::new_empty(x, code_size, code_type),
          torch::stable::new_empty(x, scale_size, ScalarType::BFloat16)};
}

inline Tensor prepare_decode(const Tensor& codes, const Tensor& scales, const Shape& size,
                             const Shape& stride, int64_t bits, int64_t group, ScalarType dtype) {
  check_codec("decode", bits, group);
  check(is_floating(dtype), "fxmem::decode: dtype must be float32, bfloat16 or float16; got ",
        torch::headeronly::toString(dtype));
  const int64_t n = count(size);
  const int64_t code_count = ceil_div(n * bits, 8);
  const int64_t scale_count = ceil_div(n, group) * (bits == 8 ? 1 : 2);
  const auto code_type = bits == 8 ? ScalarType::Char : ScalarType::Byte;
  check(codes.scalar_type() == code_type && codes.numel() == code_count && codes.is_contiguous(),
        "fxmem::decode: codes must be ", code_count, " contiguous ",
        torch::headeronly::toString(code_type), " for size ", words(size), " and bits ", bits,
        "; got ", codes.numel(), " of ", torch::headeronly::toString(codes.scalar_type()));
  check(scales.scalar_type() == ScalarType::BFloat16 && scales.numel() == scale_count &&
            scales.is_contiguous(),
        "fxmem::decode: scales must be ", scale_count, " contiguous BFloat16 for size ",
        words(size), ", bits ", bits, " and group ", group, "; got ", scales.numel(), " of ",
        torch::headeronly::toString(scales.scalar_type()));
  check_same_device("decode", "scales", scales, "codes", codes);
  return empty_dense("decode", codes, size, stride, dtype);
}

}  // namespace fxmem
