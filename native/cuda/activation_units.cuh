// What the activation kernels share: a thread works on eight elements, whose codes fill whole
// bytes; the stored dtype is a choice at run time, so that there is one kernel for each function,
// not four.
#pragma once

#include "../activations.h"
#include "../bits.h"
#include "elements.cuh"
#include "launch.h"

namespace fxmem {

constexpr int kUnit = 8;

enum class Stored { kFloat32, kBFloat16, kFloat16, kFloat64 };

inline Stored stored(ScalarType dtype) {
  if (dtype == ScalarType::Float) return Stored::kFloat32;
  if (dtype == ScalarType::BFloat16) return Stored::kBFloat16;
  return dtype == ScalarType::Half ? Stored::kFloat16 : Stored::kFloat64;
}

// R: float, or double for float64.
template <typename R>
struct Unit {
  R at[kUnit];
};

// Where a thread's eight elements lie, and how many of them there are.
struct Span {
  int64_t first;
  int count;
};

// Calls for each unit that this thread works on.
template <typename Call>
__device__ void for_units(int64_t n, const Call& call) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; u * kUnit < n;
       u += stride) {
    const int64_t left = n - u * kUnit;
    call(Span{u * kUnit, static_cast<int>(left < kUnit ? left : kUnit)});
  }
}

template <typename R, typename T>
__device__ R widened(T x) {
  if constexpr (sizeof(T) == 8) {
    return x;
  } else {
    return to_float(x);
  }
}

template <typename T, typename R>
__device__ T narrowed(R x) {
  if constexpr (sizeof(T) == 8) {
    return x;
  } else {
    return from_float<T>(x);
  }
}

// In pieces of 16 bytes. Allocations begin at more than that; a view may not.
template <typename T, typename R>
__device__ void load_as(const void* x, Span span, Unit<R>& unit) {
  constexpr int kPiece = kVector<T> < kUnit ? kVector<T> : kUnit;
  const T* from = static_cast<const T*>(x) + span.first;
  const bool aligned = reinterpret_cast<uintptr_t>(from) % 16 == 0;
#pragma unroll
  for (int i = 0; i < kUnit; i += kPiece) {
    const Block<T, kPiece> piece = load<kPiece>(from + i, span.count - i, aligned);
#pragma unroll
    for (int v = 0; v < kPiece; ++v) unit.at[i + v] = widened<R>(piece.at[v]);
  }
}

template <typename T, typename R>
__device__ void store_as(const Unit<R>& unit, void* x, Span span) {
  constexpr int kPiece = kVector<T> < kUnit ? kVector<T> : kUnit;
  T* to = static_cast<T*>(x) + span.first;
#pragma unroll
  for (int i = 0; i < kUnit; i += kPiece) {
    Block<T, kPiece> piece;
#pragma unroll
    for (int v = 0; v < kPiece; ++v) piece.at[v] = narrowed<T>(unit.at[i + v]);
    store<kPiece>(piece, to + i, span.count - i, true);
  }
}

// call(T{}) with the stored type.
template <typename R, typename Call>
__device__ void with_stored(Stored dtype, const Call& call) {
  if constexpr (sizeof(R) == 8) {
    call(double{});
  } else if (dtype == Stored::kFloat32) {
    call(float{});
  } else if (dtype == Stored::kBFloat16) {
    call(__nv_bfloat16{});
  } else {
    call(__half{});
  }
}

template <typename R>
__device__ Unit<R> load_unit(const void* x, Stored dtype, Span span) {
  Unit<R> unit;
  with_stored<R>(dtype, [&](auto type) { load_as<decltype(type)>(x, span, unit); });
  return unit;
}

template <typename R>
__device__ void store_unit(const Unit<R>& unit, void* x, Stored dtype, Span span) {
  with_stored<R>(dtype, [&](auto type) { store_as<decltype(type)>(unit, x, span); });
}

// Codes of `bits` each, the first lowest, as whole bytes of a stream; of elements that are not
// there the last one holds zeros.
__device__ inline void store_codes(uint64_t word, uint8_t* codes, int bits, Span span) {
  uint8_t* to = codes + span.first / kUnit * bits;
  const int bytes = (span.count * bits + 7) / 8;
  word &= low_bits(span.count * bits);
  for (int b = 0; b < bytes; ++b) to[b] = static_cast<uint8_t>(word >> (8 * b));
}

__device__ inline uint64_t load_codes(const uint8_t* codes, int bits, Span span) {
  const uint8_t* from = codes + span.first / kUnit * bits;
  const int bytes = (span.count * bits + 7) / 8;
  uint64_t word = 0;
  for (int b = 0; b < bytes; ++b) word |= static_cast<uint64_t>(from[b]) << (8 * b);
  return word;
}

// A function's parameters, as a kernel takes them.
template <typename F, typename R>
struct Parameters {
  R at[F::kParameters + 1];
  explicit Parameters(const Numbers& from) : at{} {
    for (int i = 0; i < F::kParameters; ++i) at[i] = static_cast<R>(from[i]);
  }
};

// call(R{}) with what is computed in.
template <typename Call>
void with_real(ScalarType dtype, const Call& call) {
  if (dtype == ScalarType::Double) return call(double{});
  call(float{});
}

// call(F{}, R{}).
template <typename Call>
void with_function(const std::string& function, ScalarType dtype, const Call& call) {
  with_activation(function, [&](auto f) { with_real(dtype, [&](auto real) { call(f, real); }); });
}

inline int64_t units(const Tensor& x) { return ceil_div(x.numel(), kUnit); }

// As many threads as fill a GPU: each block of a kernel with a table copies that first.
inline int64_t table_threads(const Tensor& x) { return std::min(units(x), int64_t{1} << 20); }

}  // namespace fxmem
