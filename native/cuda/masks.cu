// Bit streams on CUDA: a thread packs or unpacks eight elements, k whole bytes.
#include "../bits.h"
#include "../dispatch.h"
#include "../masks.h"
#include "elements.cuh"
#include "launch.h"

namespace {

using namespace fxmem;

// Up to eight bytes as one little-endian word.
__device__ inline uint64_t load_word(const uint8_t* from, int count, bool aligned) {
  return bits_as<uint64_t>(load<8>(from, count, aligned));
}

template <int kBits>
__global__ void pack_kernel(const uint8_t* x, uint8_t* packed, int64_t n, bool aligned) {
  for (int64_t u = this_thread(); u * 8 < n; u += all_threads()) {
    const int count = static_cast<int>(n - u * 8 < 8 ? n - u * 8 : 8);
    const uint64_t stream = squeeze<kBits>(load_word(x + u * 8, count, aligned));
    const int bytes = (count * kBits + 7) / 8;
#pragma unroll
    for (int b = 0; b < kBits; ++b) {
      if (b < bytes) packed[u * kBits + b] = static_cast<uint8_t>(stream >> (8 * b));
    }
  }
}

template <int kBits>
__global__ void unpack_kernel(const uint8_t* packed, uint8_t* out, int64_t n) {
  for (int64_t u = this_thread(); u * 8 < n; u += all_threads()) {
    const int count = static_cast<int>(n - u * 8 < 8 ? n - u * 8 : 8);
    const int bytes = (count * kBits + 7) / 8;
    uint64_t stream = 0;
#pragma unroll
    for (int b = 0; b < kBits; ++b) {
      if (b < bytes) stream |= static_cast<uint64_t>(packed[u * kBits + b]) << (8 * b);
    }
    store<8>(bits_as<Block<uint8_t, 8>>(spread<kBits>(stream)), out + u * 8, count, true);
  }
}

Tensor pack(const Tensor& x, int64_t bits) {
  const Packing to = prepare_pack(x, bits);
  const auto* from = static_cast<const uint8_t*>(to.x.const_data_ptr());
  auto* packed = static_cast<uint8_t*>(to.packed.mutable_data_ptr());
  with_constant<1, 2, 3, 4, 5, 6, 7, 8>(static_cast<int>(bits), [&](auto k) {
    launch(x, ceil_div(x.numel(), 8), &pack_kernel<k.value>, from, packed, x.numel(),
           is_aligned(from));
  });
  return to.packed;
}

Tensor unpack(const Tensor& packed, Shape size, Shape stride, int64_t bits, ScalarType dtype) {
  Tensor out = prepare_unpack(packed, size, stride, bits, dtype);
  const auto* from = static_cast<const uint8_t*>(packed.const_data_ptr());
  auto* to = static_cast<uint8_t*>(out.mutable_data_ptr());
  with_constant<1, 2, 3, 4, 5, 6, 7, 8>(static_cast<int>(bits), [&](auto k) {
    launch(out, ceil_div(out.numel(), 8), &unpack_kernel<k.value>, from, to, out.numel());
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) {
  m.impl("pack", TORCH_BOX(&pack));
  m.impl("unpack", TORCH_BOX(&unpack));
}
