// Sketches on the CPU. Compiled once per instruction set, into namespace FXMEM_ISA.
//
// A block of S is made in a buffer that stays in the cache, a row at a time in registers; x is
// packed into strips of a few vectors, and a panel of S times a strip is summed in registers.
#include <memory>

#include "../dispatch.h"
#include "activation_tiles.h"
#include "sketch_rows.h"
#include "vectors.h"

namespace fxmem {
namespace {

constexpr int kPanel = kVectorBytes == 64 ? 8 : 4;
constexpr int kVectors = 3;  // a strip's

template <typename R>
constexpr int kStripLanes = kVectors * kLanes<R>;

template <typename R>
using Memory = std::unique_ptr<R[]>;

template <typename R>
Memory<R> memory(int64_t count) {
  return Memory<R>(new R[count]);
}

// What one call works on: a block, and columns [column, column + columns) of it.
struct Part {
  SketchBlock block;
  int64_t column, columns;
};

Part part_at(const SketchTask& task, int64_t i) {
  const int64_t chunks = (task.width + kSketchColumns - 1) / kSketchColumns;
  const int64_t column = i % chunks * kSketchColumns;
  const int64_t left = task.width - column;
  return {block_at(task.n, task.rows, i / chunks), column,
          left < kSketchColumns ? left : kSketchColumns};
}

template <typename T>
const T* row_of(const SketchTask& task, const Part& part, int64_t q) {
  return static_cast<const T*>(task.x) + (part.block.first + q) * task.stride + part.column;
}

// Columns [at, at + count) of row t of the block's sketch.
template <typename T>
void put_row(const SketchTask& task, const Part& part, int64_t t, int64_t at, int count,
             Scalar<T>* values, double scale) {
  const auto factor = static_cast<Scalar<T>>(scale);
  for (int i = 0; i < count; ++i) values[i] *= factor;
  const int64_t to = (part.block.top + t) * task.width + part.column + at;
  if constexpr (kIsScalar<T>) {
    memcpy(static_cast<T*>(task.out) + to, values, count * sizeof(T));
  } else {
    put<T>(values, count, task.out, to);
  }
}

// kRows rows of S times a strip of n rows of x.
template <int kRows, typename R>
void multiply(const R* s, int64_t s_stride, const R* x, int64_t n, R* out) {
  Vector<R> sums[kRows][kVectors] = {};
  for (int64_t q = 0; q < n; ++q, x += kStripLanes<R>) {
    const auto* strip = reinterpret_cast<const Vector<R>*>(x);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sums[r][v] += s[r * s_stride + q] * strip[v];
    }
  }
  memcpy(out, sums, sizeof(sums));
}

// Buffers for the biggest block, of one call: to ask for them anew costs page faults.
template <typename R>
struct Scratch {
  Memory<R> s, strips;
  Memory<double> scales;

  explicit Scratch(const SketchTask& task) {
    const int64_t blocks = block_count(task.n, task.rows);
    const int64_t n = (task.n + blocks - 1) / blocks, k = (task.rows + blocks - 1) / blocks;
    const bool transformed = task.kind == kHadamard;
    const int64_t columns = task.width < kSketchColumns ? task.width : kSketchColumns;
    const int64_t wide = columns + (transformed ? kColumns : kStripLanes<R>);
    if (task.kind == kCrs) return;
    strips = memory<R>((transformed ? power_of_two(n) : n) * wide);
    if (transformed) return;
    s = memory<R>(k * ((n + 31) / 32 * 32));
    scales = memory<double>(k);
  }
};

// The rows of x, each whole before the next, as strips one after the other: each [size, kWide],
// filled up with zeros. sign(q) is a factor of row q.
template <typename T, int kWide, typename Sign>
void pack_strips(const SketchTask& task, const Part& part, int64_t size, Scalar<T>* strips,
                 const Sign& sign) {
  using R = Scalar<T>;
  for (int64_t q = 0; q < size; ++q) {
    const bool inside = q < part.block.n;
    const T* row = inside ? row_of<T>(task, part, q) : nullptr;
    const R factor = sign(q);
    for (int64_t c = 0; c < part.columns; c += kWide) {
      R* to = strips + c * size + q * kWide;
      const int64_t left = inside ? part.columns - c : 0;
      const int count = left < kWide ? static_cast<int>(left) : kWide;
      load_row(row + c, count, to);
      for (int i = 0; i < count; ++i) to[i] *= factor;
      for (int i = count; i < kWide; ++i) to[i] = 0;
    }
  }
}

template <typename T>
void dense_part(const SketchTask& task, const Part& part, const Scratch<Scalar<T>>& scratch) {
  using R = Scalar<T>;
  constexpr int kStrip = kStripLanes<R>;
  const SketchBlock& block = part.block;
  R* s = scratch.s.get();
  for (int64_t t = 0; t < block.k; ++t)
    scratch.scales[t] = projection_row(task, block, t, s + t * block.width);
  pack_strips<T, kStrip>(task, part, block.n, scratch.strips.get(), [](int64_t) { return R{1}; });
  R sums[8 * kStrip];
  for (int64_t c = 0; c < part.columns; c += kStrip) {
    const int64_t left = part.columns - c;
    const int count = left < kStrip ? static_cast<int>(left) : kStrip;
    const R* strip = scratch.strips.get() + c * block.n;
    for (int64_t t = 0; t < block.k; t += kPanel) {
      const int rows = block.k - t < kPanel ? static_cast<int>(block.k - t) : kPanel;
      with_constant<1, 2, 3, 4, 5, 6, 7, kPanel>(rows, [&](auto r) {
        multiply<r.value>(s + t * block.width, block.width, strip, block.n, sums);
      });
      for (int r = 0; r < rows; ++r)
        put_row<T>(task, part, t + r, c, count, sums + r * kStrip, scratch.scales[t + r]);
    }
  }
}

template <typename T>
void hadamard_part(const SketchTask& task, const Part& part, const Scratch<Scalar<T>>& scratch) {
  using R = Scalar<T>;
  const SketchBlock& block = part.block;
  const int64_t size = power_of_two(block.n);
  R* strips = scratch.strips.get();
  pack_strips<T, kColumns>(task, part, size, strips, [&](int64_t q) {
    return static_cast<R>(signed_one(column_signs(task.seed, block, q), q % 32));
  });
  for (int64_t c = 0; c < part.columns; c += kColumns) transform(strips + c * size, size);
  const double scale = 1.0 / std::sqrt(static_cast<double>(block.k));
  for (int64_t t = 0; t < block.k; ++t) {
    R* row = strips + sampled_row(task.seed, block, t, size) * kColumns;
    for (int64_t c = 0; c < part.columns; c += kColumns) {
      const int64_t left = part.columns - c;
      R values[kColumns];
      memcpy(values, row + c * size, sizeof(values));
      put_row<T>(task, part, t, c, left < kColumns ? static_cast<int>(left) : kColumns, values,
                 scale);
    }
  }
}

template <typename T>
void sampled_part(const SketchTask& task, const Part& part) {
  const SketchBlock& block = part.block;
  const double scale = std::sqrt(static_cast<double>(block.n) / static_cast<double>(block.k));
  Scalar<T> values[kSketchColumns];
  const int count = static_cast<int>(part.columns);
  for (int64_t t = 0; t < block.k; ++t) {
    load_row(row_of<T>(task, part, sampled_row(task.seed, block, t, block.n)), count, values);
    put_row<T>(task, part, t, 0, count, values, scale);
  }
}

template <typename T>
void sketch_parts(const SketchTask& task, int64_t first, int64_t last) {
  const Scratch<Scalar<T>> scratch(task);
  for (int64_t i = first; i < last; ++i) {
    const Part part = part_at(task, i);
    if (task.kind == kCrs) {
      sampled_part<T>(task, part);
    } else if (task.kind == kHadamard) {
      hadamard_part<T>(task, part, scratch);
    } else {
      dense_part<T>(task, part, scratch);
    }
  }
}

}  // namespace

namespace FXMEM_ISA {

void sketch(const SketchTask& task, Element element, int64_t first, int64_t last) {
  if (element == kFloat32) return sketch_parts<float>(task, first, last);
  if (element == kBFloat16) return sketch_parts<BFloat16>(task, first, last);
  if (element == kFloat16) return sketch_parts<Float16>(task, first, last);
  sketch_parts<double>(task, first, last);
}

}  // namespace FXMEM_ISA
}  // namespace fxmem
