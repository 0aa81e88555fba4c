// The group codec on CUDA for widths of 3, 5, 6 and 7 bits: a lane holds eight consecutive
// elements, whose codes fill `bits` whole bytes.
#include "../bits.h"
#include "../dispatch.h"
#include "codec.cuh"

namespace fxmem {
namespace {

constexpr int kUnit = 8;
constexpr int kUnitBytes = kUnit * sizeof(float);  // at most; loaded as one block

// The unit of group g that this thread's lane holds.
struct Unit {
  int64_t first;  // its first element
  int present;    // of its elements, how many exist; may be negative
  int bytes;      // that its codes take
};

template <int kBits>
__device__ Unit unit_of(int64_t g, int group, int64_t n, int lane) {
  const int64_t first = g * group + lane * kUnit;
  const int64_t end = n < (g + 1) * group ? n : (g + 1) * group;
  const int64_t left = end - first < kUnit ? end - first : kUnit;
  const int present = static_cast<int>(left);
  return {first, present, present <= 0 ? 0 : (present * kBits + 7) / 8};
}

template <typename T, int kBits, bool kStochastic>
__global__ void encode_kernel(const T* x, uint8_t* codes, uint16_t* scales, int64_t n, int group,
                              int lanes, const int64_t* seed, bool aligned) {
  const int64_t groups = (n + group - 1) / group;
  const int64_t stride = all_threads() / lanes;
  const int lane = threadIdx.x % lanes;
  const int64_t start = this_thread() / lanes;
  const uint64_t seed_value = kStochastic ? static_cast<uint64_t>(*seed) : 0;
  // Whole warps stay in the loop, on the last group if need be: the shuffles want every lane.
  for (int64_t g = start; __any_sync(0xFFFFFFFFU, g < groups); g += stride) {
    const Unit unit = unit_of<kBits>(g < groups ? g : groups - 1, group, n, lane);
    const Block<T, kUnit> loaded = load<kUnit>(x + unit.first, unit.present, aligned);
    Range range;
#pragma unroll
    for (int v = 0; v < kUnit; ++v) {
      const int32_t key = ordered(to_float(loaded.at[v]));
      if (v < unit.present) range = {min(range.lowest, key), max(range.highest, key)};
    }
    range = reduce(range, lanes);
    const Scale scale =
        group_scale<kBits, kStochastic>(from_ordered(range.lowest), from_ordered(range.highest));
    if (g >= groups) continue;
    if (lane == 0) put_scale<kBits>(scale, g, scales);
    const Key key = kStochastic ? make_key(seed_value, g * group) : Key{};
    uint64_t bytes = 0;
#pragma unroll
    for (int v = 0; v < kUnit; ++v) {
      const float noise = kStochastic ? dither(key, static_cast<uint32_t>(unit.first) + v) : 0.0F;
      const int code = encode_value<kBits, kStochastic>(to_float(loaded.at[v]), scale.inverse,
                                                        scale.offset, noise);
      if (v < unit.present) bytes |= static_cast<uint64_t>(code) << (8 * v);
    }
    const uint64_t stream = squeeze<kBits>(bytes);
    uint8_t* to = codes + unit.first / kUnit * kBits;
#pragma unroll
    for (int i = 0; i < kBits; ++i) {
      if (i < unit.bytes) to[i] = static_cast<uint8_t>(stream >> (8 * i));
    }
  }
}

template <typename T, int kBits>
__global__ void decode_kernel(const uint8_t* codes, const uint16_t* scales, T* out, int64_t n,
                              int group, int lanes, bool aligned) {
  const int64_t groups = (n + group - 1) / group;
  const int64_t stride = all_threads() / lanes;
  const int lane = threadIdx.x % lanes;
  const int64_t start = this_thread() / lanes;
  for (int64_t g = start; g < groups; g += stride) {
    const Unit unit = unit_of<kBits>(g, group, n, lane);
    const Scale scale = take_scale<kBits>(scales, g);
    const uint8_t* from = codes + unit.first / kUnit * kBits;
    uint64_t stream = 0;
#pragma unroll
    for (int i = 0; i < kBits; ++i) {
      if (i < unit.bytes) stream |= static_cast<uint64_t>(from[i]) << (8 * i);
    }
    const uint64_t bytes = spread<kBits>(stream);
    Block<T, kUnit> values;
#pragma unroll
    for (int v = 0; v < kUnit; ++v) {
      const int code = static_cast<int>((bytes >> (8 * v)) & 0xFF);
      const float value = decode_value<kBits>(code, scale.step, scale.zero);
      values.at[v] = from_float<T>(limit(value, kLargest<T>));
    }
    store<kUnit>(values, out + unit.first, unit.present, aligned);
  }
}

template <typename Call>
void with_kind(ScalarType dtype, int64_t bits, const Call& call) {
  with_float(dtype, [&](auto x) {
    with_constant<7, 6, 5, 3>(static_cast<int>(bits), [&](auto k) { call(x, k); });
  });
}

}  // namespace

void encode_stream(const Encoding& to, int64_t bits, int64_t group, const int64_t* seed) {
  const int64_t n = to.x.numel();
  const int lanes = static_cast<int>(group) / kUnit;
  auto* codes = static_cast<uint8_t*>(to.codes.mutable_data_ptr());
  auto* scales = static_cast<uint16_t*>(to.scales.mutable_data_ptr());
  with_kind(to.x.scalar_type(), bits, [&](auto type, auto k) {
    using T = decltype(type);
    const auto* from = static_cast<const T*>(to.x.const_data_ptr());
    const auto kernel =
        seed != nullptr ? &encode_kernel<T, k.value, true> : &encode_kernel<T, k.value, false>;
    launch(to.x, ceil_div(n, group) * lanes, kernel, from, codes, scales, n,
           static_cast<int>(group), lanes, seed, is_aligned(from, kUnitBytes));
  });
}

void decode_stream(const Tensor& codes, const Tensor& scales, Tensor& out, int64_t bits,
                   int64_t group) {
  const int64_t n = out.numel();
  const int lanes = static_cast<int>(group) / kUnit;
  const auto* from = static_cast<const uint8_t*>(codes.const_data_ptr());
  const auto* scale = static_cast<const uint16_t*>(scales.const_data_ptr());
  with_kind(out.scalar_type(), bits, [&](auto type, auto k) {
    using T = decltype(type);
    auto* to = static_cast<T*>(out.mutable_data_ptr());
    launch(out, ceil_div(n, group) * lanes, &decode_kernel<T, k.value>, from, scale, to, n,
           static_cast<int>(group), lanes, is_aligned(to, kUnitBytes));
  });
}

}  // namespace fxmem
