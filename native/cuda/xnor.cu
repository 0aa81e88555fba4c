// Products of signs on CUDA: a block's threads share a tile of the rows of a and b, and each counts
// the bits that differ in its own part of it.
#include "../xnor.h"

#include "../arithmetic.h"
#include "launch.h"

namespace {

using namespace fxmem;

constexpr int kTileSide = 64;     // rows of a, and of b
constexpr int kTileWords = 16;    // of a row, at a time
constexpr int kSideThreads = 16;  // each has every 16th row of a and of b
constexpr int kThreadSide = kTileSide / kSideThreads;
static_assert(kSideThreads * kSideThreads == kThreads, "the threads make a square");

// The rows of a and b that a tile reads, word by word. With one row to spare, words that are
// written side by side fall into different banks.
struct XnorTile {
  uint64_t a[kTileWords][kTileSide + 1], b[kTileWords][kTileSide + 1];
};

struct XnorProduct : XnorOutput {
  const uint64_t *a, *b;  // rows of `words`
  int64_t rows, columns, words, n;
};

struct XnorCounts {
  int32_t at[kThreadSide][kThreadSide];  // differing bits
};

FXMEM_INLINE int64_t side_tiles(int64_t rows) { return (rows + kTileSide - 1) / kTileSide; }

FXMEM_INLINE int64_t xnor_tiles(const XnorProduct& task) {
  return side_tiles(task.rows) * side_tiles(task.columns);
}

// A thread's part of the words [from, from + kTileWords) of a tile; zeros, which agree, beyond.
__device__ inline void load_words(const XnorProduct& task, int64_t tile, int64_t from, int thread,
                                  XnorTile& words) {
  const int64_t top = tile / side_tiles(task.columns) * kTileSide;
  const int64_t left = tile % side_tiles(task.columns) * kTileSide;
  const int w = thread % kTileWords;
  const bool inside = from + w < task.words;
  for (int i = thread / kTileWords; i < kTileSide; i += kThreads / kTileWords) {
    const bool a = inside && top + i < task.rows, b = inside && left + i < task.columns;
    words.a[w][i] = a ? task.a[(top + i) * task.words + from + w] : 0;
    words.b[w][i] = b ? task.b[(left + i) * task.words + from + w] : 0;
  }
}

__device__ inline void count_words(const XnorTile& words, int thread, XnorCounts& counts) {
  const int row = thread / kSideThreads, column = thread % kSideThreads;
  for (int w = 0; w < kTileWords; ++w) {
    uint64_t right[kThreadSide];
    for (int j = 0; j < kThreadSide; ++j) right[j] = words.b[w][column + j * kSideThreads];
    for (int i = 0; i < kThreadSide; ++i) {
      const uint64_t left = words.a[w][row + i * kSideThreads];
      for (int j = 0; j < kThreadSide; ++j) counts.at[i][j] += __popcll(left ^ right[j]);
    }
  }
}

__device__ inline void store_sums(const XnorProduct& task, int64_t tile, int thread,
                                  const XnorCounts& counts) {
  const int64_t top = tile / side_tiles(task.columns) * kTileSide + thread / kSideThreads;
  const int64_t left = tile % side_tiles(task.columns) * kTileSide + thread % kSideThreads;
  for (int i = 0; i < kThreadSide; ++i) {
    const int64_t row = top + i * kSideThreads;
    for (int j = 0; j < kThreadSide; ++j) {
      const int64_t column = left + j * kSideThreads;
      if (row >= task.rows || column >= task.columns) continue;
      const auto sum = static_cast<int32_t>(task.n - 2 * int64_t{counts.at[i][j]});
      const int64_t at = row * task.columns + column;
      if (task.values == nullptr) {
        task.sums[at] = sum;
      } else {
        const float scaled = static_cast<float>(sum) * task.left[row * task.left_step];
        task.values[at] = scaled * task.right[column * task.right_step];
      }
    }
  }
}

__global__ void xnor_kernel(XnorProduct task) {
  __shared__ XnorTile words;
  for (int64_t tile = blockIdx.x; tile < xnor_tiles(task); tile += gridDim.x) {
    XnorCounts counts = {};
    for (int64_t from = 0; from < task.words; from += kTileWords) {
      __syncthreads();  // until the last words are counted
      load_words(task, tile, from, static_cast<int>(threadIdx.x), words);
      __syncthreads();
      count_words(words, static_cast<int>(threadIdx.x), counts);
    }
    store_sums(task, tile, static_cast<int>(threadIdx.x), counts);
  }
}

// Rows of words, which a view of bytes need not be.
Tensor aligned(const Tensor& x) {
  const Tensor rows = torch::stable::contiguous(x);
  const auto place = reinterpret_cast<uintptr_t>(rows.const_data_ptr());
  return place % sizeof(uint64_t) == 0 ? rows : torch::stable::clone(rows);
}

void run(const Tensor& a, const Tensor& b, int64_t n, const XnorOutput& out) {
  XnorProduct task{out};
  const Tensor left = aligned(a), right = aligned(b);
  task.a = static_cast<const uint64_t*>(left.const_data_ptr());
  task.b = static_cast<const uint64_t*>(right.const_data_ptr());
  task.rows = a.size(0);
  task.columns = b.size(0);
  task.words = a.size(1) / 8;
  task.n = n;
  launch(a, xnor_tiles(task) * kThreads, &xnor_kernel, task);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) {
  m.impl("xnor_mm", TORCH_BOX(&xnor_mm<run>));
  m.impl("scaled_xnor_mm", TORCH_BOX(&scaled_xnor_mm<run>));
}
