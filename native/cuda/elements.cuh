// 16-byte loads and stores of elements, as floats in registers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "../arithmetic.h"

namespace fxmem {

template <typename T>
constexpr int kVector = 16 / sizeof(T);

template <typename T>
constexpr float kLargest = std::numeric_limits<float>::max();
template <>
constexpr float kLargest<__nv_bfloat16> = kBf16Max;
template <>
constexpr float kLargest<__half> = 65504.0F;

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Block {
  T at[kCount];
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(__half x) { return __half2float(x); }

template <typename T>
__device__ inline T from_float(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else if constexpr (kLargest<T> == 65504.0F) {
    return __float2half_rn(x);
  } else {
    return __float2bfloat16_rn(x);
  }
}

// What elements are summed in.
template <typename T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
__device__ inline Sum<T> to_sum(T x) {
  if constexpr (std::is_same_v<T, double>) {
    return x;
  } else {
    return to_float(x);
  }
}

template <typename T>
__device__ inline T from_sum(Sum<T> x) {
  if constexpr (std::is_same_v<T, double>) {
    return x;
  } else {
    return from_float<T>(x);
  }
}

// The first `present` of kCount elements at `from`; in one access where all are there and aligned.
template <int kCount, typename T>
__device__ inline Block<T, kCount> load(const T* from, int present, bool aligned) {
  if (aligned && present >= kCount) return *reinterpret_cast<const Block<T, kCount>*>(from);
  Block<T, kCount> block;
#pragma unroll
  for (int v = 0; v < kCount; ++v) block.at[v] = v < present ? from[v] : T{};
  return block;
}

template <int kCount, typename T>
__device__ inline void store(const Block<T, kCount>& block, T* to, int present, bool aligned) {
  if (aligned && present >= kCount) {
    *reinterpret_cast<Block<T, kCount>*>(to) = block;
    return;
  }
#pragma unroll
  for (int v = 0; v < kCount; ++v) {
    if (v < present) to[v] = block.at[v];
  }
}

FXMEM_INLINE bool is_aligned(const void* pointer, size_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace fxmem
