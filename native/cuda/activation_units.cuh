// What the activation kernels share: a thread works on eight elements, whose codes fill whole
// bytes; the stored dtype is a choice at run time, so that there is one kernel for each function,
// not four.
#pragma once

#include "../activation_quick.h"
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

// R: what is computed in, float or double.
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
  for (int64_t u = this_thread(); u * kUnit < n; u += all_threads()) {
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
  const bool aligned = is_aligned(from);
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
  if (dtype == Stored::kFloat32) {
    call(float{});
  } else if constexpr (sizeof(R) == 8) {
    call(double{});
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

// A function as a kernel takes it: its parameters, and how far its quicker evaluation reaches.
template <typename F, typename R>
struct Function {
  Parameters<F, R> p;
  R reach = -1;
  Function(const Numbers& parameters, ScalarType dtype) : p(parameters.data()) {
    if constexpr (F::kQuick) {
      if (dtype != ScalarType::Double) reach = quick_reach<F>(p.at);
    }
  }
};

// call(x, parameters) of each element; with Quick numbers where all are near.
template <typename F, typename R, typename Call>
__device__ Unit<R> mapped(const Unit<R>& x, const Function<F, R>& f, const Call& call) {
  Unit<R> out;
  if constexpr (F::kQuick) {
    bool near = true;
#pragma unroll
    for (int v = 0; v < kUnit; ++v) near = near && abs_of(x.at[v]) <= f.reach;
    if (near) {
      const Parameters<F, Quick<R>> p(f.p.at);
#pragma unroll
      for (int v = 0; v < kUnit; ++v) out.at[v] = static_cast<R>(call(Quick<R>(x.at[v]), p.at));
      return out;
    }
  }
#pragma unroll
  for (int v = 0; v < kUnit; ++v) out.at[v] = call(x.at[v], f.p.at);
  return out;
}

template <typename F, typename R>
__device__ Unit<R> values(const Unit<R>& x, const Function<F, R>& f) {
  return mapped(x, f, [](auto at, const auto* p) { return F::value(at, p); });
}

template <typename F, typename R>
__device__ Unit<R> slopes(const Unit<R>& x, const Function<F, R>& f) {
  return mapped(x, f, [](auto at, const auto* p) { return F::slope(at, p); });
}

// call(R{}) with what tables are in, and slopes from the output are computed in.
template <typename Call>
void with_real(ScalarType dtype, const Call& call) {
  if (dtype == ScalarType::Double) return call(double{});
  call(float{});
}

// call(F{}, R{}) with what F is evaluated in: of float32 that is double, so that only the result is
// rounded.
template <typename Call>
void with_function(const std::string& function, ScalarType dtype, const Call& call) {
  const bool half = dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
  with_activation(function, [&](auto f) { return half ? call(f, float{}) : call(f, double{}); });
}

inline int64_t units(const Tensor& x) { return ceil_div(x.numel(), kUnit); }

// As many threads as fill a GPU: each block of a kernel with a table copies that first.
inline int64_t table_threads(const Tensor& x) { return std::min(units(x), int64_t{1} << 20); }

}  // namespace fxmem
