// Sketches on CUDA. A dense S is made a tile at a time in shared memory, and nowhere else; the
// Walsh-Hadamard transform is done in place in shared memory.
#include "../sketch.h"
#include "elements.cuh"
#include "launch.h"

namespace {

using namespace fxmem;

constexpr int kRowTile = 64, kColumnTile = 128, kDepth = 32;  // of S x, and of what is summed over
constexpr int kThreadRows = 8, kThreadColumns = 4;
constexpr int kColumnThreads = kColumnTile / kThreadColumns;
static_assert(kThreads * kThreadRows * kThreadColumns == kRowTile * kColumnTile,
              "each thread sums its own part of a tile");
constexpr int kTransformed = 512;  // rows that fit shared memory
constexpr int kTransformColumns = 16;

struct Task {
  const void* x;
  void* out;
  Projection kind;
  int64_t n, rows, width, stride;
  const int64_t* seed;
};

template <typename T>
__device__ inline Sum<T> load_at(const Task& task, int64_t row, int64_t column) {
  return to_sum(static_cast<const T*>(task.x)[row * task.stride + column]);
}

template <typename T>
__device__ inline void store_at(const Task& task, int64_t row, int64_t column, Sum<T> value) {
  static_cast<T*>(task.out)[row * task.width + column] = from_sum<T>(value);
}

// What of a row of S does not change from column to column.
struct Row {
  int64_t sampled;
  Wave wave;
  double scale;
};

__device__ inline Row row_at(const Task& task, const SketchBlock& block, uint64_t seed, int64_t t) {
  const double share = 1.0 / static_cast<double>(block.k);
  if (task.kind == kGaussian || task.kind == kRademacher) return {0, {}, sqrt(share)};
  const bool padded = task.kind == kHadamard;
  const int64_t size = padded ? power_of_two(block.n) : block.n;
  const int64_t drawn = sampled_row(seed, block, t, size);
  if (padded) return {drawn, {}, sqrt(share)};
  const Wave wave = wave_of(task.kind, drawn, block.n);
  return {drawn, wave, sqrt((wave.single ? 1.0 : 2.0) * share)};
}

// 32 columns of a row of S from q on, two a lane: those at lane and lane + 16 of lanes 0 to 15.
__device__ inline Direction entries(const Task& task, const SketchBlock& block, uint64_t seed,
                                    const Row& row, int64_t t, int64_t q, int lane) {
  if (task.kind == kGaussian) {
    const int64_t index = (block.top + t) * block.width + q;
    const Key key = make_key(seed, index);
    const uint32_t at = static_cast<uint32_t>(index) + 2 * lane;
    return normal_pair(draw(key, at), draw(key, at + 1));
  }
  if (task.kind == kRademacher) {
    const uint32_t signs = entry_signs(seed, block, t, q);
    return {signed_one(signs, lane), signed_one(signs, lane + 16)};
  }
  const uint32_t signs = column_signs(seed, block, q);
  const float first = signed_one(signs, lane), second = signed_one(signs, lane + 16);
  const int64_t at = q + lane;
  if (task.kind == kHadamard) {
    const auto odd = [&](int64_t column) { return __popcll(row.sampled & column) & 1; };
    return {odd(at) ? -first : first, odd(at + 16) ? -second : second};
  }
  return {first * wave_at(row.wave, at), second * wave_at(row.wave, at + 16)};
}

// A tile of S x is [kRowTile, kColumnTile] of a block's; tiles are counted along columns first.
template <typename T>
__global__ void dense_kernel(Task task, int64_t row_tiles, int64_t column_tiles, int64_t tiles) {
  using S = Sum<T>;
  __shared__ float entry[kDepth][kRowTile];
  __shared__ S value[kDepth][kColumnTile];
  __shared__ Row row[kRowTile];
  const auto seed = static_cast<uint64_t>(*task.seed);
  const int first_row = threadIdx.x / kColumnThreads * kThreadRows;
  const int first_column = threadIdx.x % kColumnThreads;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const SketchBlock block = block_at(task.n, task.rows, tile / column_tiles / row_tiles);
    const int64_t top = tile / column_tiles % row_tiles * kRowTile;
    const int64_t left = tile % column_tiles * kColumnTile;
    if (threadIdx.x < kRowTile && top + threadIdx.x < block.k)
      row[threadIdx.x] = row_at(task, block, seed, top + threadIdx.x);
    S sums[kThreadRows][kThreadColumns] = {};
    for (int64_t q = 0; q < block.n; q += kDepth) {
      __syncthreads();
      for (int i = threadIdx.x; i < kRowTile * kDepth / 2; i += kThreads) {
        const int t = i / (kDepth / 2), lane = i % (kDepth / 2);
        const bool inside = top + t < block.k;
        const Direction both =
            inside ? entries(task, block, seed, row[t], top + t, q, lane) : Direction{0.0F, 0.0F};
        entry[lane][t] = both.cosine;
        entry[lane + kDepth / 2][t] = both.sine;
      }
      for (int i = threadIdx.x; i < kDepth * kColumnTile; i += kThreads) {
        const int64_t from = q + i / kColumnTile, column = left + i % kColumnTile;
        const bool inside = from < block.n && column < task.width;
        value[i / kColumnTile][i % kColumnTile] =
            inside ? load_at<T>(task, block.first + from, column) : S{0};
      }
      __syncthreads();
      const int depth = static_cast<int>(block.n - q < kDepth ? block.n - q : kDepth);
      for (int d = 0; d < depth; ++d) {
#pragma unroll
        for (int c = 0; c < kThreadColumns; ++c) {
          const S factor = value[d][first_column + c * kColumnThreads];
#pragma unroll
          for (int r = 0; r < kThreadRows; ++r) sums[r][c] += entry[d][first_row + r] * factor;
        }
      }
    }
    for (int r = 0; r < kThreadRows; ++r) {
      const int64_t t = top + first_row + r;
      for (int c = 0; c < kThreadColumns; ++c) {
        const int64_t column = left + first_column + c * kColumnThreads;
        if (t < block.k && column < task.width) {
          const S scale = static_cast<S>(row[first_row + r].scale);
          store_at<T>(task, block.top + t, column, sums[r][c] * scale);
        }
      }
    }
    __syncthreads();
  }
}

template <typename T>
__global__ void hadamard_kernel(Task task, int64_t column_tiles, int64_t tiles) {
  using S = Sum<T>;
  constexpr int kColumns = kTransformColumns * sizeof(float) / sizeof(S);
  __shared__ S x[kTransformed * kColumns];
  const auto seed = static_cast<uint64_t>(*task.seed);
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const SketchBlock block = block_at(task.n, task.rows, tile / column_tiles);
    const int64_t left = tile % column_tiles * kColumns;
    const int size = static_cast<int>(power_of_two(block.n));
    for (int i = threadIdx.x; i < size * kColumns; i += kThreads) {
      const int q = i / kColumns;
      const int64_t column = left + i % kColumns;
      const bool inside = q < block.n && column < task.width;
      const float sign = signed_one(column_signs(seed, block, q / 32 * 32), q % 32);
      x[i] = inside ? load_at<T>(task, block.first + q, column) * sign : S{0};
    }
    for (int h = 1; h < size; h *= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < size * kColumns / 2; i += kThreads) {
        const int pair = i / kColumns;
        const int at = (pair / h * 2 * h + pair % h) * kColumns + i % kColumns;
        const S first = x[at], second = x[at + h * kColumns];
        x[at] = first + second;
        x[at + h * kColumns] = first - second;
      }
    }
    __syncthreads();
    const auto scale = static_cast<S>(1.0 / sqrt(static_cast<double>(block.k)));
    for (int64_t i = threadIdx.x; i < block.k * kColumns; i += kThreads) {
      const int64_t t = i / kColumns, column = left + i % kColumns;
      const int64_t from = sampled_row(seed, block, t, size);
      if (column < task.width)
        store_at<T>(task, block.top + t, column, x[from * kColumns + i % kColumns] * scale);
    }
    __syncthreads();
  }
}

template <typename T>
__global__ void sampled_kernel(Task task) {
  const auto seed = static_cast<uint64_t>(*task.seed);
  const int64_t count = block_count(task.n, task.rows);
  for (int64_t i = this_thread(); i < task.rows * task.width; i += all_threads()) {
    const int64_t row = i / task.width;
    // The last block whose first row is not below this one: rows * b / count <= row.
    const SketchBlock block = block_at(task.n, task.rows, ((row + 1) * count - 1) / task.rows);
    const int64_t from = block.first + sampled_row(seed, block, row - block.top, block.n);
    const double scale = sqrt(static_cast<double>(block.n) / static_cast<double>(block.k));
    const Sum<T> value = load_at<T>(task, from, i % task.width);
    store_at<T>(task, row, i % task.width, value * static_cast<Sum<T>>(scale));
  }
}

template <typename T>
void run(const Tensor& on, const Task& task) {
  if (task.kind == kCrs) return launch(on, task.rows * task.width, &sampled_kernel<T>, task);
  const int64_t blocks = block_count(task.n, task.rows);
  const int64_t most_rows = ceil_div(task.n, blocks);
  if (task.kind == kHadamard && most_rows <= kTransformed) {
    constexpr int kColumns = kTransformColumns * sizeof(float) / sizeof(Sum<T>);
    const int64_t columns = ceil_div(task.width, kColumns);
    return launch(on, blocks * columns * kThreads, &hadamard_kernel<T>, task, columns,
                  blocks * columns);
  }
  const int64_t rows = ceil_div(ceil_div(task.rows, blocks), kRowTile);
  const int64_t columns = ceil_div(task.width, kColumnTile);
  const int64_t tiles = blocks * rows * columns;
  launch(on, tiles * kThreads, &dense_kernel<T>, task, rows, columns, tiles);
}

Tensor sketch(const Tensor& x, StringHandle kind, int64_t rows, const Tensor& seed) {
  const Sketching to = prepare_sketch(x, taken(kind), rows, seed);
  if (to.n == 0 || to.width == 0) return to.out;
  const Task task{to.x.const_data_ptr(),
                  to.out.mutable_data_ptr(),
                  to.kind,
                  to.n,
                  to.rows,
                  to.width,
                  to.stride,
                  static_cast<const int64_t*>(seed.const_data_ptr())};
  const ScalarType type = x.scalar_type();
  if (type == ScalarType::Float) run<float>(x, task);
  if (type == ScalarType::BFloat16) run<__nv_bfloat16>(x, task);
  if (type == ScalarType::Half) run<__half>(x, task);
  if (type == ScalarType::Double) run<double>(x, task);
  return to.out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) { m.impl("sketch", TORCH_BOX(&sketch)); }
