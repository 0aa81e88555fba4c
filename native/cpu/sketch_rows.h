// Rows of a sketch's matrix, and the Walsh-Hadamard transform. Included by sketch_kernels.cpp only.
#pragma once

#include "../projection.h"
#include "kernels.h"

namespace fxmem {
namespace {

template <typename R>
void normal_row(const SketchTask& task, const SketchBlock& block, int64_t t, R* row) {
  for (int64_t q = 0; q < block.n; q += 32) {
    const int64_t index = (block.top + t) * block.width + q;
    const Key key = make_key(task.seed, index);
    const auto low = static_cast<uint32_t>(index);
    for (uint32_t i = 0; i < 16; ++i) {
      const Direction both = normal_pair(draw(key, low + 2 * i), draw(key, low + 2 * i + 1));
      row[q + i] = both.cosine;
      row[q + 16 + i] = both.sine;
    }
  }
}

template <typename R>
void sign_row(const SketchTask& task, const SketchBlock& block, int64_t t, R* row) {
  for (int64_t q = 0; q < block.n; q += 32) {
    const uint32_t signs = entry_signs(task.seed, block, t, q);
    for (int i = 0; i < 32; ++i) row[q + i] = signed_one(signs, i);
  }
}

template <typename R>
double wave_row(const SketchTask& task, const SketchBlock& block, int64_t t, R* row) {
  const auto kind = static_cast<Projection>(task.kind);
  const int64_t drawn = sampled_row(task.seed, block, t, block.n);
  const Wave wave = wave_of(kind, drawn, block.n);
  for (int64_t q = 0; q < block.n; q += 32) {
    const uint32_t signs = column_signs(task.seed, block, q);
    for (int i = 0; i < 32; ++i) row[q + i] = wave_at(wave, q + i) * signed_one(signs, i);
  }
  return std::sqrt((wave.single ? 1.0 : 2.0) / static_cast<double>(block.k));
}

// Row t of the block of S, but for the factor that is returned. Written to whole 32 columns.
template <typename R>
double projection_row(const SketchTask& task, const SketchBlock& block, int64_t t, R* row) {
  if (task.kind == kDct || task.kind == kDft) return wave_row(task, block, t, row);
  if (task.kind == kGaussian)
    normal_row(task, block, t, row);
  else
    sign_row(task, block, t, row);
  return 1.0 / std::sqrt(static_cast<double>(block.k));
}

constexpr int kColumns = 64;  // of a Hadamard transform at a time

template <typename R>
void butterfly(R* a, R* b) {
  for (int i = 0; i < kColumns; ++i) {
    const R sum = a[i] + b[i], difference = a[i] - b[i];
    a[i] = sum;
    b[i] = difference;
  }
}

// Two steps at once, which halves the traffic.
template <typename R>
void butterflies(R* a, R* b, R* c, R* d) {
  for (int i = 0; i < kColumns; ++i) {
    const R first = a[i] + b[i], second = a[i] - b[i];
    const R third = c[i] + d[i], fourth = c[i] - d[i];
    a[i] = first + third;
    b[i] = second + fourth;
    c[i] = first - third;
    d[i] = second - fourth;
  }
}

// The Walsh-Hadamard transform of kColumns columns, in place.
template <typename R>
void transform(R* x, int64_t size) {
  int64_t h = 1;
  for (; 4 * h <= size; h *= 4) {
    for (int64_t i = 0; i < size; i += 4 * h) {
      for (int64_t j = i; j < i + h; ++j) {
        R* row = x + j * kColumns;
        butterflies(row, row + h * kColumns, row + 2 * h * kColumns, row + 3 * h * kColumns);
      }
    }
  }
  for (int64_t j = 0; j < size - h; ++j) butterfly(x + j * kColumns, x + (j + h) * kColumns);
}

}  // namespace
}  // namespace fxmem
