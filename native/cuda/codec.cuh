// What the kernels of the group codec share: a group's range across lanes, and its scales.
#pragma once

#include "../codec.h"
#include "elements.cuh"
#include "launch.h"

namespace fxmem {

// Codes that do not fit a byte evenly: eight of them in `bits` bytes (codec_stream.cu).
void encode_stream(const Encoding& to, int64_t bits, int64_t group, const int64_t* seed);
void decode_stream(const Tensor& codes, const Tensor& scales, Tensor& out, int64_t bits,
                   int64_t group);

// ordered() of the smallest and the largest element.
struct Range {
  int32_t lowest = 0x7FFFFFFF;
  int32_t highest = static_cast<int32_t>(0x80000000);
};

__device__ inline Range reduce(Range range, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) {
    range.lowest = min(range.lowest, __shfl_xor_sync(0xFFFFFFFFU, range.lowest, step));
    range.highest = max(range.highest, __shfl_xor_sync(0xFFFFFFFFU, range.highest, step));
  }
  return range;
}

template <int kBits>
__device__ void put_scale(const Scale& scale, int64_t g, uint16_t* scales) {
  const auto upper = [](float v) { return static_cast<uint16_t>(bits_as<uint32_t>(v) >> 16); };
  if constexpr (kBits == 8) {
    scales[g] = upper(scale.step);
  } else {
    *reinterpret_cast<ushort2*>(scales + 2 * g) =
        make_ushort2(upper(scale.step), upper(scale.zero));
  }
}

template <int kBits>
__device__ Scale take_scale(const uint16_t* scales, int64_t g) {
  const auto lower = [&](int64_t i) {
    return bits_as<float>(static_cast<uint32_t>(scales[i]) << 16);
  };
  if constexpr (kBits == 8) return {lower(g), 0.0F, 0.0F, 0.0F};
  return {lower(2 * g), lower(2 * g + 1), 0.0F, 0.0F};
}

template <typename Call>
void with_float(ScalarType dtype, const Call& call) {
  if (dtype == ScalarType::Float) return call(float{});
  if (dtype == ScalarType::BFloat16) return call(__nv_bfloat16{});
  return call(__half{});
}

}  // namespace fxmem
