// The group codec's encoder on the CPU: a group's range and its codes in one pass, while it is in
// L1. Compiled once per instruction set, into namespace FXMEM_ISA; nothing here may be shared by
// the linker.
#include "layout.h"

namespace fxmem {
namespace {

struct Batch {
  float low[kBatch], high[kBatch];
  float step[kBatch], zero[kBatch], inverse[kBatch], offset[kBatch];
};

template <typename T>
FXMEM_INLINE void find_range(const T* x, int count, float* low, float* high) {
  auto lowest = order_key(x[0]);
  auto highest = lowest;
  for (int i = 0; i < count; ++i) {
    const auto key = order_key(x[i]);
    lowest = key < lowest ? key : lowest;
    highest = key > highest ? key : highest;
  }
  *low = key_to_float(lowest, T{});
  *high = key_to_float(highest, T{});
}

template <int kBits, bool kStochastic>
FXMEM_INLINE void find_scales(Batch& batch) {
  for (int i = 0; i < kBatch; ++i) {
    const Scale scale = group_scale<kBits, kStochastic>(batch.low[i], batch.high[i]);
    batch.step[i] = scale.step;
    batch.zero[i] = scale.zero;
    batch.inverse[i] = scale.inverse;
    batch.offset[i] = scale.offset;
  }
}

template <int kBits>
FXMEM_INLINE void put_scales(const Batch& batch, int count, uint16_t* out) {
  for (int i = 0; i < count; ++i) {
    const auto step = static_cast<uint16_t>(bits_as<uint32_t>(batch.step[i]) >> 16);
    const auto zero = static_cast<uint16_t>(bits_as<uint32_t>(batch.zero[i]) >> 16);
    if constexpr (kBits == 8) {
      out[i] = step;
    } else {
      out[2 * i] = step;
      out[2 * i + 1] = zero;
    }
  }
}

// The dithers of a group that begins at element `first`, a multiple of 32; in whole blocks.
FXMEM_INLINE void find_dithers(Key key, int64_t first, int count, float* dithers) {
  for (int block = 0; block < count; block += 32) {
    const uint32_t from = static_cast<uint32_t>(first + block) >> 1;
    for (int i = 0; i < 16; ++i) {
      const uint32_t both = draw(key, from + i);
      dithers[block + i] = centred(both);
      dithers[block + 16 + i] = centred(both >> 16);
    }
  }
}

// x holds whole bytes' worth of elements. The codes of a stream are left one a byte.
template <int kBits, bool kStochastic>
FXMEM_INLINE void encode_group(const float* x, int count, float inverse, float offset, Key key,
                               int64_t first, uint8_t* codes) {
  alignas(64) int32_t code[kLargestGroup + kSlack];
  alignas(64) float dithers[kStochastic ? kLargestGroup + 32 : 1];
  if constexpr (kStochastic) find_dithers(key, first, padded<kBits>(count), dithers);
  for (int i = 0; i < padded<kBits>(count); ++i)
    code[i] = encode_value<kBits, kStochastic>(x[i], inverse, offset, kStochastic ? dithers[i] : 0);
  if constexpr (kIsStream<kBits>) {
    for (int i = 0; i < padded<kBits>(count); ++i) codes[i] = static_cast<uint8_t>(code[i]);
    return;
  }
  const int length = stretch<kBits>(count);
  for (int j = 0; j < length; ++j) {
    int32_t byte = code[j];
    for (int part = 1; part < 8 / kBits; ++part) byte |= code[j + part * length] << (part * kBits);
    codes[j] = static_cast<uint8_t>(byte);
  }
}

template <typename T, int kBits, bool kStochastic, int kGroup>
FXMEM_INLINE void encode_batch(const EncodeTask& task, int64_t g, int groups, uint64_t seed) {
  const T* x = static_cast<const T*>(task.x) + g * kGroup;
  uint8_t* codes = task.codes + g * kGroup * kBits / 8;
  Batch batch = {};
  for (int i = 0; i < groups; ++i)
    find_range(x + i * kGroup, kGroup, batch.low + i, batch.high + i);
  find_scales<kBits, kStochastic>(batch);
  put_scales<kBits>(batch, groups, task.scales + g * (kBits == 8 ? 1 : 2));
  alignas(64) float buffer[std::is_same_v<T, float> ? 1 : kBatch * kGroup];
  const float* values = floats(x, groups * kGroup, buffer);
  // The groups of a batch are one stream.
  alignas(64) uint64_t units[kIsStream<kBits> ? kBatch * kGroup / 8 : 1];
  uint8_t* own = kIsStream<kBits> ? reinterpret_cast<uint8_t*>(units) : codes;
  for (int i = 0; i < groups; ++i) {
    const int64_t at = (g + i) * kGroup;
    const Key key = kStochastic ? make_key(seed, at) : Key{};
    encode_group<kBits, kStochastic>(values + i * kGroup, kGroup, batch.inverse[i], batch.offset[i],
                                     key, at, own + i * kLength<kBits, kGroup>);
  }
  if constexpr (kIsStream<kBits>) put_stream<kBits>(units, groups * kGroup, codes);
}

// The last group, where it is short. Elements that complete its last byte get code 0.
template <typename T, int kBits, bool kStochastic, int kGroup>
void encode_rest(const EncodeTask& task, int64_t g, uint64_t seed) {
  const int64_t at = g * kGroup;
  const int count = static_cast<int>(task.n - at);
  const T* x = static_cast<const T*>(task.x) + at;
  Batch batch = {};
  find_range(x, count, batch.low, batch.high);
  find_scales<kBits, kStochastic>(batch);
  put_scales<kBits>(batch, 1, task.scales + g * (kBits == 8 ? 1 : 2));
  alignas(64) float buffer[kGroup + kSlack];
  for (int i = 0; i < count; ++i) buffer[i] = to_float(x[i]);
  for (int i = count; i < count + kSlack; ++i) buffer[i] = batch.zero[0];
  const Key key = kStochastic ? make_key(seed, at) : Key{};
  uint8_t* codes = task.codes + at * kBits / 8;
  alignas(64) uint64_t units[kGroup / 8];
  uint8_t* own = kIsStream<kBits> ? reinterpret_cast<uint8_t*>(units) : codes;
  encode_group<kBits, kStochastic>(buffer, count, batch.inverse[0], batch.offset[0], key, at, own);
  if constexpr (kIsStream<kBits>) put_stream<kBits>(units, count, codes);
}

template <typename T, int kBits, bool kStochastic, int kGroup>
void encode_groups(const EncodeTask& task, int64_t first, int64_t last) {
  const uint64_t seed = kStochastic ? static_cast<uint64_t>(*task.seed) : 0;
  const int64_t whole = last * kGroup > task.n ? last - 1 : last;
  int64_t g = first;
  for (; g + kBatch <= whole; g += kBatch)
    encode_batch<T, kBits, kStochastic, kGroup>(task, g, kBatch, seed);
  if (g < whole)
    encode_batch<T, kBits, kStochastic, kGroup>(task, g, static_cast<int>(whole - g), seed);
  if (whole < last) encode_rest<T, kBits, kStochastic, kGroup>(task, whole, seed);
}

}  // namespace

namespace FXMEM_ISA {

void encode(const EncodeTask& task, Element element, int bits, int64_t first, int64_t last) {
  with_layout(element, bits, task.group, [&](auto x, auto k, auto group) {
    if (task.seed == nullptr) {
      encode_groups<decltype(x), k.value, false, group.value>(task, first, last);
    } else {
      encode_groups<decltype(x), k.value, true, group.value>(task, first, last);
    }
  });
}

}  // namespace FXMEM_ISA
}  // namespace fxmem
