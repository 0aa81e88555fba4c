// Products of signs on the CPU: differing bits, counted. Compiled once per instruction set, into
// namespace FXMEM_ISA.
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <cstring>

#include "../arithmetic.h"
#include "../dispatch.h"
#include "kernels.h"

namespace fxmem {
namespace {

constexpr int kRows = 4;        // of a, against a panel of b
constexpr int64_t kChunk = 64;  // rows of a that share a panel while it is in L1

// Counts of a block: the bits in which kCount rows of a differ from the columns of a panel.
using Counts = int64_t[kRows][kXnorColumns];

inline uint64_t word(const uint8_t* row, int64_t w) {
  uint64_t out;
  memcpy(&out, row + w * 8, sizeof(out));
  return out;
}

template <int kCount>
void count_plain(const uint8_t* a, const uint64_t* panel, int64_t words, Counts& counts) {
  for (int64_t w = 0; w < words; ++w) {
    for (int i = 0; i < kCount; ++i) {
      const uint64_t left = word(a + i * words * 8, w);
      for (int j = 0; j < kXnorColumns; ++j)
        counts[i][j] += __builtin_popcountll(left ^ panel[w * kXnorColumns + j]);
    }
  }
}

#ifdef __AVX2__

// The counts of a vector's bytes, by halves of a byte.
inline __m256i byte_counts(__m256i x) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2,
                                         1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
  return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(x, low)),
                         _mm256_shuffle_epi8(table, high));
}

constexpr int64_t kBytesHold = 31;  // words whose counts of 8 fit a byte

// Two rows and eight columns at a time: four sums of bytes and their four totals in registers.
template <int kCount>
void count_eight(const uint8_t* a, const uint64_t* panel, int64_t words, Counts& counts, int row,
                 int column) {
  __m256i total[kCount][2] = {};
  for (int64_t start = 0; start < words; start += kBytesHold) {
    const int64_t end = start + kBytesHold < words ? start + kBytesHold : words;
    __m256i bytes[kCount][2] = {};
    for (int64_t w = start; w < end; ++w) {
      for (int v = 0; v < 2; ++v) {
        const auto* at = panel + w * kXnorColumns + column + 4 * v;
        const __m256i right = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
        for (int i = 0; i < kCount; ++i) {
          const uint64_t left = word(a + (row + i) * words * 8, w);
          const __m256i differ = _mm256_xor_si256(_mm256_set1_epi64x(left), right);
          bytes[i][v] = _mm256_add_epi8(bytes[i][v], byte_counts(differ));
        }
      }
    }
    for (int i = 0; i < kCount; ++i) {
      for (int v = 0; v < 2; ++v) {
        const __m256i sums = _mm256_sad_epu8(bytes[i][v], _mm256_setzero_si256());
        total[i][v] = _mm256_add_epi64(total[i][v], sums);
      }
    }
  }
  for (int i = 0; i < kCount; ++i)
    for (int v = 0; v < 2; ++v)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(&counts[row + i][column + 4 * v]),
                          total[i][v]);
}

template <int kCount>
void count_bytes(const uint8_t* a, const uint64_t* panel, int64_t words, Counts& counts) {
  for (int column = 0; column < kXnorColumns; column += 8) {
    for (int row = 0; row + 2 <= kCount; row += 2)
      count_eight<2>(a, panel, words, counts, row, column);
    if (kCount % 2 != 0) count_eight<1>(a, panel, words, counts, kCount - 1, column);
  }
}

#endif  // __AVX2__

#ifdef __AVX512F__

template <int kCount>
__attribute__((target("avx512vpopcntdq"))) void count_words(const uint8_t* a, const uint64_t* panel,
                                                            int64_t words, Counts& counts) {
  __m512i total[kCount][2];
  for (int i = 0; i < kCount; ++i) total[i][0] = total[i][1] = _mm512_setzero_si512();
  for (int64_t w = 0; w < words; ++w) {
    const __m512i first = _mm512_loadu_si512(panel + w * kXnorColumns);
    const __m512i second = _mm512_loadu_si512(panel + w * kXnorColumns + 8);
    for (int i = 0; i < kCount; ++i) {
      const __m512i left = _mm512_set1_epi64(word(a + i * words * 8, w));
      const __m512i here = _mm512_popcnt_epi64(_mm512_xor_si512(left, first));
      const __m512i there = _mm512_popcnt_epi64(_mm512_xor_si512(left, second));
      total[i][0] = _mm512_add_epi64(total[i][0], here);
      total[i][1] = _mm512_add_epi64(total[i][1], there);
    }
  }
  for (int i = 0; i < kCount; ++i) {
    _mm512_storeu_si512(&counts[i][0], total[i][0]);
    _mm512_storeu_si512(&counts[i][8], total[i][1]);
  }
}

#endif  // __AVX512F__

template <int kCount>
void count_block(const uint8_t* a, const uint64_t* panel, int64_t words, Counts& counts) {
#ifdef __AVX512F__
  if (__builtin_cpu_supports("avx512vpopcntdq"))
    return count_words<kCount>(a, panel, words, counts);
#endif
#ifdef __AVX2__
  return count_bytes<kCount>(a, panel, words, counts);
#endif
  count_plain<kCount>(a, panel, words, counts);
}

// A panel's width is a constant for all but the last, and its loops are vector instructions.
FXMEM_INLINE void store_row(const XnorTask& task, int64_t row, int64_t column, int width,
                            const int64_t* __restrict counts) {
  const int64_t at = row * task.columns + column;
  int32_t sums[kXnorColumns];
  for (int j = 0; j < width; ++j) sums[j] = static_cast<int32_t>(task.n - 2 * counts[j]);
  if (task.values == nullptr) {
    memcpy(task.sums + at, sums, width * sizeof(int32_t));
    return;
  }
  const float left = task.left[row * task.left_step];
  const float* __restrict right = task.right + column * task.right_step;
  float* __restrict values = task.values + at;
  if (task.right_step == 0) {
    for (int j = 0; j < width; ++j) values[j] = static_cast<float>(sums[j]) * left * *right;
  } else {
    for (int j = 0; j < width; ++j) values[j] = static_cast<float>(sums[j]) * left * right[j];
  }
}

template <int kCount>
void block(const XnorTask& task, int64_t row, int64_t column) {
  alignas(64) Counts counts = {};
  const uint64_t* panel = task.panels + column * task.words;
  count_block<kCount>(task.a + row * task.words * 8, panel, task.words, counts);
  const int64_t rest = task.columns - column;
  if (rest >= kXnorColumns) {
    for (int i = 0; i < kCount; ++i) store_row(task, row + i, column, kXnorColumns, counts[i]);
    return;
  }
  for (int i = 0; i < kCount; ++i)
    store_row(task, row + i, column, static_cast<int>(rest), counts[i]);
}

}  // namespace

namespace FXMEM_ISA {

void xnor(const XnorTask& task, int64_t first, int64_t last) {
  for (int64_t chunk = first; chunk < last; chunk += kChunk) {
    const int64_t end = chunk + kChunk < last ? chunk + kChunk : last;
    for (int64_t column = 0; column < task.columns; column += kXnorColumns) {
      int64_t row = chunk;
      for (; row + kRows <= end; row += kRows) block<kRows>(task, row, column);
      if (row < end)
        with_constant<1, 2, 3>(static_cast<int>(end - row),
                               [&](auto k) { block<k.value>(task, row, column); });
    }
  }
}

}  // namespace FXMEM_ISA
}  // namespace fxmem
