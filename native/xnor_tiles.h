// A product of signs by tiles that threads share: what each of them loads, sums and stores. Said
// without CUDA, so that a test can go through the same steps on a processor.
#pragma once

#include "arithmetic.h"
#include "xnor_output.h"

namespace fxmem {

constexpr int kTileSide = 64;   // rows of a, and of b
constexpr int kTileWords = 16;  // of a row, at a time
constexpr int kTileThreads = 256;
constexpr int kSideThreads = 16;  // each has every 16th row of a and of b
constexpr int kThreadSide = kTileSide / kSideThreads;
static_assert(kSideThreads * kSideThreads == kTileThreads, "the threads make a square");

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

FXMEM_INLINE int ones(uint64_t word) {
#ifdef __CUDA_ARCH__
  return __popcll(word);
#else
  return __builtin_popcountll(word);
#endif
}

// A thread's part of the words [from, from + kTileWords) of a tile; zeros, which agree, beyond.
FXMEM_INLINE void load_words(const XnorProduct& task, int64_t tile, int64_t from, int thread,
                             XnorTile& words) {
  const int64_t top = tile / side_tiles(task.columns) * kTileSide;
  const int64_t left = tile % side_tiles(task.columns) * kTileSide;
  const int w = thread % kTileWords;
  const bool inside = from + w < task.words;
  for (int i = thread / kTileWords; i < kTileSide; i += kTileThreads / kTileWords) {
    const bool a = inside && top + i < task.rows, b = inside && left + i < task.columns;
    words.a[w][i] = a ? task.a[(top + i) * task.words + from + w] : 0;
    words.b[w][i] = b ? task.b[(left + i) * task.words + from + w] : 0;
  }
}

FXMEM_INLINE void count_words(const XnorTile& words, int thread, XnorCounts& counts) {
  const int row = thread / kSideThreads, column = thread % kSideThreads;
  for (int w = 0; w < kTileWords; ++w) {
    uint64_t right[kThreadSide];
    for (int j = 0; j < kThreadSide; ++j) right[j] = words.b[w][column + j * kSideThreads];
    for (int i = 0; i < kThreadSide; ++i) {
      const uint64_t left = words.a[w][row + i * kSideThreads];
      for (int j = 0; j < kThreadSide; ++j) counts.at[i][j] += ones(left ^ right[j]);
    }
  }
}

FXMEM_INLINE void store_sums(const XnorProduct& task, int64_t tile, int thread,
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

}  // namespace fxmem
