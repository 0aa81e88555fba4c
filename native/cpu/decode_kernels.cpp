// The group codec's decoder on the CPU, once per instruction set as the encoder is.
#include "layout.h"

namespace fxmem {
namespace {

// codes are the group's; of a stream they are one a byte already.
template <int kBits>
FXMEM_INLINE void decode_group(const uint8_t* __restrict codes, int count, float step, float zero,
                               float* __restrict out) {
  if constexpr (kIsStream<kBits>) {
    for (int i = 0; i < count; ++i) out[i] = decode_value<kBits>(codes[i], step, zero);
    return;
  }
  const int length = stretch<kBits>(count);
  for (int part = 0; part < 8 / kBits; ++part) {
    const int begin = part * length;
    const int present = count - begin < length ? count - begin : length;
    for (int j = 0; j < present; ++j) {
      const int32_t code = kBits == 8 ? static_cast<int8_t>(codes[j])
                                      : (codes[j] >> (part * kBits)) & ((1 << kBits) - 1);
      out[begin + j] = decode_value<kBits>(code, step, zero);
    }
  }
}

// Whole groups, or with kGroups == 1 one that may be short.
template <typename T, int kBits, int kGroup, int kGroups>
FXMEM_INLINE void decode_batch(const DecodeTask& task, int64_t g) {
  const int64_t at = g * kGroup;
  const int count =
      kGroups == 1 && task.n - at < kGroup ? static_cast<int>(task.n - at) : kGroups * kGroup;
  const uint16_t* scales = task.scales + g * (kBits == 8 ? 1 : 2);
  alignas(64) float buffer[std::is_same_v<T, float> ? 1 : kGroups * kGroup];
  float* values = buffer;
  if constexpr (std::is_same_v<T, float>) values = static_cast<float*>(task.out) + at;
  const uint8_t* codes = task.codes + at * kBits / 8;
  // The groups of a batch are one stream.
  alignas(64) uint64_t units[kIsStream<kBits> ? kGroups * kGroup / 8 : 1];
  if constexpr (kIsStream<kBits>) {
    take_stream<kBits>(codes, count, units);
    codes = reinterpret_cast<const uint8_t*>(units);
  }
  bool limited = false;
  for (int i = 0; i < kGroups; ++i) {
    const float step = to_float(BFloat16{scales[kBits == 8 ? i : 2 * i]});
    const float zero = kBits == 8 ? 0.0F : to_float(BFloat16{scales[kBits == 8 ? i : 2 * i + 1]});
    const float reach = (zero < 0.0F ? -zero : zero) + step * (kBits == 8 ? 128 : 1 << kBits);
    limited |= reach > kLargest<T>;
    const int own = kGroups == 1 ? count : kGroup;
    decode_group<kBits>(codes + i * kLength<kBits, kGroup>, own, step, zero, values + i * kGroup);
  }
  if (limited) {
    for (int i = 0; i < count; ++i) values[i] = limit(values[i], kLargest<T>);
  }
  if constexpr (!std::is_same_v<T, float>)
    store_block(buffer, count, static_cast<T*>(task.out) + at);
}

template <typename T, int kBits, int kGroup>
void decode_groups(const DecodeTask& task, int64_t first, int64_t last) {
  const int64_t whole = last * kGroup > task.n ? last - 1 : last;
  int64_t g = first;
  for (; g + kBatch <= whole; g += kBatch) decode_batch<T, kBits, kGroup, kBatch>(task, g);
  for (; g < last; ++g) decode_batch<T, kBits, kGroup, 1>(task, g);
}

}  // namespace

namespace FXMEM_ISA {

void decode(const DecodeTask& task, Element element, int bits, int64_t first, int64_t last) {
  with_layout(element, bits, task.group, [&](auto x, auto k, auto group) {
    decode_groups<decltype(x), k.value, group.value>(task, first, last);
  });
}

}  // namespace FXMEM_ISA
}  // namespace fxmem
