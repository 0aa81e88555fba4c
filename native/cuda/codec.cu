// The group codec on CUDA: a few lanes of a warp hold a group in registers, reduce its range with
// shuffles and write its codes; memory is read once, in 16-byte pieces.
#include "../dispatch.h"
#include "codec.cuh"

namespace {

using namespace fxmem;

// A lane holds kParts vectors of a group, `length` elements apart. Below 8 bits those are the
// elements that share bytes (element j and j + length in byte j); for 8 bits two halves, to use
// fewer lanes.
template <int kBits>
constexpr int kParts = kBits == 2 ? 4 : 2;

// Where this thread's lane of group g lies.
struct Place {
  int64_t first;  // the group's first element
  int count;      // elements in the group
  int length;     // elements in a part
  int offset;     // of this lane's vector in its part
};

template <int kBits>
__device__ Place place_of(int64_t g, int group, int64_t n, int lane, int vector) {
  const int64_t first = g * group;
  const int count = static_cast<int>(n - first < group ? n - first : group);
  return {first, count, (count + kParts<kBits> - 1) / kParts<kBits>, lane * vector};
}

// How many of the `vector` elements from `offset` in part `part` exist; may be negative.
__device__ inline int present(const Place& at, int part) {
  const int in_part = at.length - at.offset;
  const int in_group = at.count - part * at.length - at.offset;
  return in_part < in_group ? in_part : in_group;
}

template <typename T, int kBits, bool kStochastic>
__global__ void encode_kernel(const T* x, uint8_t* codes, uint16_t* scales, int64_t n, int group,
                              int lanes, const int64_t* seed, bool aligned) {
  constexpr int kWidth = kVector<T>;
  const int64_t groups = (n + group - 1) / group;
  const int64_t stride = all_threads() / lanes;
  const int lane = threadIdx.x % lanes;
  const int64_t start = this_thread() / lanes;
  const uint64_t seed_value = kStochastic ? static_cast<uint64_t>(*seed) : 0;
  // Whole warps stay in the loop, on the last group if need be: the shuffles want every lane.
  for (int64_t g = start; __any_sync(0xFFFFFFFFU, g < groups); g += stride) {
    const Place at = place_of<kBits>(g < groups ? g : groups - 1, group, n, lane, kWidth);
    Block<T, kWidth> loaded[kParts<kBits>];
    Range range;
#pragma unroll
    for (int part = 0; part < kParts<kBits>; ++part) {
      const int there = present(at, part);
      const int64_t from = at.first + part * at.length + at.offset;
      loaded[part] = load<kWidth>(x + from, there, aligned && at.count == group);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) {
        const int32_t key = ordered(to_float(loaded[part].at[v]));
        if (v < there) range = {min(range.lowest, key), max(range.highest, key)};
      }
    }
    range = reduce(range, lanes);
    const Scale scale =
        group_scale<kBits, kStochastic>(from_ordered(range.lowest), from_ordered(range.highest));
    if (g >= groups) continue;
    if (lane == 0) put_scale<kBits>(scale, g, scales);
    const Key key = kStochastic ? make_key(seed_value, at.first) : Key{};
    Block<uint8_t, kWidth> bytes = {};
#pragma unroll
    for (int part = 0; part < kParts<kBits>; ++part) {
      const int there = present(at, part);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) {
        const uint32_t index = static_cast<uint32_t>(at.first) + part * at.length + at.offset + v;
        const float noise = kStochastic ? dither(key, index) : 0.0F;
        const int code = encode_value<kBits, kStochastic>(to_float(loaded[part].at[v]),
                                                          scale.inverse, scale.offset, noise);
        if constexpr (kBits == 8) {
          bytes.at[v] = static_cast<uint8_t>(code);
        } else if (v < there) {
          bytes.at[v] |= static_cast<uint8_t>(code << (part * kBits));
        }
      }
      if constexpr (kBits == 8) {
        store<kWidth>(bytes, codes + at.first + part * at.length + at.offset, there,
                      at.count == group);
      }
    }
    if constexpr (kBits != 8) {
      store<kWidth>(bytes, codes + at.first * kBits / 8 + at.offset, at.length - at.offset,
                    at.count == group);
    }
  }
}

template <typename T, int kBits>
__global__ void decode_kernel(const uint8_t* codes, const uint16_t* scales, T* out, int64_t n,
                              int group, int lanes, bool aligned) {
  constexpr int kWidth = kVector<T>;
  const int64_t groups = (n + group - 1) / group;
  const int64_t stride = all_threads() / lanes;
  const int lane = threadIdx.x % lanes;
  const int64_t start = this_thread() / lanes;
  for (int64_t g = start; g < groups; g += stride) {
    const Place at = place_of<kBits>(g, group, n, lane, kWidth);
    const Scale scale = take_scale<kBits>(scales, g);
    const bool whole = aligned && at.count == group;
    Block<uint8_t, kWidth> bytes;
    if constexpr (kBits != 8) {
      bytes = load<kWidth>(codes + at.first * kBits / 8 + at.offset, at.length - at.offset, whole);
    }
#pragma unroll
    for (int part = 0; part < kParts<kBits>; ++part) {
      const int64_t element = at.first + part * at.length + at.offset;
      const int there = present(at, part);
      if constexpr (kBits == 8) bytes = load<kWidth>(codes + element, there, whole);
      Block<T, kWidth> values;
#pragma unroll
      for (int v = 0; v < kWidth; ++v) {
        const int code = kBits == 8 ? static_cast<int8_t>(bytes.at[v])
                                    : (bytes.at[v] >> (part * kBits)) & ((1 << kBits) - 1);
        values.at[v] =
            from_float<T>(limit(decode_value<kBits>(code, scale.step, scale.zero), kLargest<T>));
      }
      store<kWidth>(values, out + element, there, whole);
    }
  }
}

template <typename Call>
void with_kind(ScalarType dtype, int64_t bits, const Call& call) {
  with_float(dtype, [&](auto x) {
    with_constant<8, 4, 2>(static_cast<int>(bits), [&](auto k) { call(x, k); });
  });
}

template <typename T, int kBits>
int lanes_of(int64_t group) {
  return static_cast<int>(group) / (kVector<T> * kParts<kBits>);
}

std::tuple<Tensor, Tensor> encode(const Tensor& x, int64_t bits, int64_t group,
                                  std::optional<Tensor> seed) {
  const Encoding to = prepare_encode(x, bits, group, seed);
  const int64_t n = x.numel();
  auto* codes = static_cast<uint8_t*>(to.codes.mutable_data_ptr());
  auto* scales = static_cast<uint16_t*>(to.scales.mutable_data_ptr());
  const auto* seed_at = seed ? static_cast<const int64_t*>(seed->const_data_ptr()) : nullptr;
  if (8 % bits != 0) {
    encode_stream(to, bits, group, seed_at);
    return {to.codes, to.scales};
  }
  with_kind(x.scalar_type(), bits, [&](auto type, auto k) {
    using T = decltype(type);
    const int lanes = lanes_of<T, k.value>(group);
    const auto* from = static_cast<const T*>(to.x.const_data_ptr());
    const auto kernel = seed ? &encode_kernel<T, k.value, true> : &encode_kernel<T, k.value, false>;
    launch(x, ceil_div(n, group) * lanes, kernel, from, codes, scales, n, static_cast<int>(group),
           lanes, seed_at, is_aligned(from));
  });
  return {to.codes, to.scales};
}

Tensor decode(const Tensor& codes, const Tensor& scales, Shape size, Shape stride, int64_t bits,
              int64_t group, ScalarType dtype) {
  Tensor out = prepare_decode(codes, scales, size, stride, bits, group, dtype);
  if (8 % bits != 0) {
    decode_stream(codes, scales, out, bits, group);
    return out;
  }
  const int64_t n = out.numel();
  const auto* from = static_cast<const uint8_t*>(codes.const_data_ptr());
  const auto* scale = static_cast<const uint16_t*>(scales.const_data_ptr());
  with_kind(dtype, bits, [&](auto type, auto k) {
    using T = decltype(type);
    const int lanes = lanes_of<T, k.value>(group);
    launch(out, ceil_div(n, group) * lanes, &decode_kernel<T, k.value>, from, scale,
           static_cast<T*>(out.mutable_data_ptr()), n, static_cast<int>(group), lanes,
           is_aligned(from));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) {
  m.impl("encode", TORCH_BOX(&encode));
  m.impl("decode", TORCH_BOX(&decode));
}
