// Absmax quantization on the CPU: the range of a row or of a block of columns, then its codes,
// while it is in a cache. Compiled once per instruction set, into namespace FXMEM_ISA.
#include <cstring>

#include "../arithmetic.h"
#include "kernels.h"

namespace fxmem {
namespace {

// To the nearest whole number, ties to even, of numbers below 2^22; NaN becomes 0.
FXMEM_INLINE int8_t nearest(float value) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: its neighbours are 1 apart
  const float rounded = (value + kShift) - kShift;
  return static_cast<int8_t>(static_cast<int32_t>(rounded == rounded ? rounded : 0.0f));
}

// The magnitude's bits, which order as magnitudes do, and NaN above all.
FXMEM_INLINE uint32_t magnitude(float value) { return bits_as<uint32_t>(value) & 0x7fffffffu; }

FXMEM_INLINE float scale_of(uint32_t top, float levels) {
  return top == 0 ? 1.0f : bits_as<float>(top) / levels;
}

template <bool kFactor>
FXMEM_INLINE float given(float x, const float* factor, int64_t at) {
  return kFactor ? x * factor[at] : x;
}

// The code of an element of a row, whose random stream `key` selects.
template <bool kDraws>
FXMEM_INLINE int8_t code_of(float scaled, Key key, int64_t column) {
  return nearest(kDraws ? scaled + dither(key, static_cast<uint32_t>(column)) : scaled);
}

template <bool kDraws>
FXMEM_INLINE Key key_of(const AbsmaxTask& task, int64_t row) {
  return kDraws ? make_key(static_cast<uint64_t>(*task.seed), row << 32) : Key{};
}

template <bool kFactor, bool kDraws>
void quantize_row(const AbsmaxTask& task, int64_t row) {
  // Bytes may alias anything, unless it is said that they do not.
  const float* __restrict x = task.x + row * task.columns;
  const float* __restrict factor = task.factor;
  int8_t* __restrict codes = task.codes + row * task.columns;
  const int64_t period = task.period;
  uint32_t top = 0;
  for (int64_t start = 0; start < task.columns; start += period) {
    for (int64_t j = 0; j < period; ++j) {
      const uint32_t size = magnitude(given<kFactor>(x[start + j], factor, j));
      top = size > top ? size : top;
    }
  }
  const float scale = scale_of(top, task.levels);
  task.scale[row] = scale;
  const Key key = key_of<kDraws>(task, row);
  for (int64_t start = 0; start < task.columns; start += period) {
    for (int64_t j = 0; j < period; ++j) {
      const float scaled = given<kFactor>(x[start + j], factor, j) / scale;
      codes[start + j] = code_of<kDraws>(scaled, key, start + j);
    }
  }
}

template <bool kFactor, bool kDraws>
void quantize_columns(const AbsmaxTask& task, int64_t block) {
  const int64_t first = block * kAbsmaxColumns, rest = task.columns - first;
  const int64_t width = rest < kAbsmaxColumns ? rest : kAbsmaxColumns;
  uint32_t top[kAbsmaxColumns] = {};
  float scale[kAbsmaxColumns];
  for (int64_t i = 0; i < task.rows; ++i) {
    const float* x = task.x + i * task.columns + first;
    const float factor = kFactor ? task.factor[i] : 1.0f;
    for (int64_t j = 0; j < width; ++j) {
      const uint32_t size = magnitude(kFactor ? x[j] * factor : x[j]);
      top[j] = size > top[j] ? size : top[j];
    }
  }
  for (int64_t j = 0; j < width; ++j) scale[j] = scale_of(top[j], task.levels);
  memcpy(task.scale + first, scale, width * sizeof(float));
  for (int64_t i = 0; i < task.rows; ++i) {
    const float* __restrict x = task.x + i * task.columns + first;
    int8_t* __restrict codes = task.codes + i * task.columns + first;
    const float factor = kFactor ? task.factor[i] : 1.0f;
    const Key key = key_of<kDraws>(task, i);
    for (int64_t j = 0; j < width; ++j)
      codes[j] = code_of<kDraws>((kFactor ? x[j] * factor : x[j]) / scale[j], key, first + j);
  }
}

template <bool kFactor, bool kDraws>
void quantize(const AbsmaxTask& task, int64_t first, int64_t last) {
  for (int64_t part = first; part < last; ++part) {
    if (task.by_column) {
      quantize_columns<kFactor, kDraws>(task, part);
    } else {
      quantize_row<kFactor, kDraws>(task, part);
    }
  }
}

template <bool kFactor>
void quantize(const AbsmaxTask& task, int64_t first, int64_t last) {
  if (task.seed == nullptr) return quantize<kFactor, false>(task, first, last);
  quantize<kFactor, true>(task, first, last);
}

}  // namespace

namespace FXMEM_ISA {

void absmax(const AbsmaxTask& task, int64_t first, int64_t last) {
  if (task.factor == nullptr) return quantize<false>(task, first, last);
  quantize<true>(task, first, last);
}

}  // namespace FXMEM_ISA
}  // namespace fxmem
