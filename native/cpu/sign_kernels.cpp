// The signs of a matrix, the mask of its gradient and the mean magnitude of its rows on the CPU, in
// one pass over memory. Compiled once per instruction set, into namespace FXMEM_ISA.
#include <cstring>

#include "../bits.h"
#include "../signs.h"
#include "kernels.h"

namespace fxmem {
namespace {

constexpr int kWord = 64;  // elements at a time

FXMEM_INLINE void squeeze_word(const uint8_t* flags, uint8_t* to, int bytes) {
  uint64_t word = 0;
  for (int b = 0; b < kWord / 8; ++b) {
    uint64_t eight;
    memcpy(&eight, flags + 8 * b, sizeof(eight));
    word |= squeeze<1>(eight) << (8 * b);
  }
  memcpy(to, &word, bytes);
}

template <typename T>
FXMEM_INLINE void flag(const T* __restrict x, uint8_t* __restrict above, uint8_t* __restrict inside,
                       int count) {
  for (int i = 0; i < count; ++i) above[i] = x[i] >= 0;
  for (int i = 0; i < count; ++i) inside[i] = __builtin_fabs(x[i]) <= 1;
}

template <typename T>
void flags(const SignTask& task, int64_t first, int64_t last) {
  const T* x = static_cast<const T*>(task.x);
  int64_t i = first;
  for (; i + kWord <= last; i += kWord) {
    uint8_t above[kWord], inside[kWord];
    flag(x + i, above, inside, kWord);
    squeeze_word(above, task.bits + i / 8, kWord / 8);
    squeeze_word(inside, task.passes + i / 8, kWord / 8);
  }
  if (i == last) return;
  uint8_t above[kWord] = {}, inside[kWord] = {};
  const int count = static_cast<int>(last - i);
  flag(x + i, above, inside, count);
  squeeze_word(above, task.bits + i / 8, (count + 7) / 8);
  squeeze_word(inside, task.passes + i / 8, (count + 7) / 8);
}

// In double, where equal float magnitudes have exactly themselves as their mean.
template <typename T>
T mean_magnitude(const T* x, int64_t count) {
  double lanes[kSignLanes] = {};
  int64_t i = 0;
  for (; i + kSignLanes <= count; i += kSignLanes)
    for (int lane = 0; lane < kSignLanes; ++lane) lanes[lane] += __builtin_fabs(x[i + lane]);
  for (; i < count; ++i) lanes[i % kSignLanes] += __builtin_fabs(x[i]);
  for (int half = kSignLanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return count == 0 ? T{0} : static_cast<T>(lanes[0] / static_cast<double>(count));
}

template <typename T>
void scan(const SignTask& task, int64_t first, int64_t last) {
  for (int64_t block = first; block < last; ++block) {
    const int64_t row = block * kSignRows, rest = task.rows - row;
    const int64_t end = row + (rest < kSignRows ? rest : kSignRows);
    flags<T>(task, row * task.columns, end * task.columns);
    for (int64_t r = row; r < end; ++r)
      static_cast<T*>(task.magnitude)[r] =
          mean_magnitude(static_cast<const T*>(task.x) + r * task.columns, task.columns);
  }
}

}  // namespace

namespace FXMEM_ISA {

void signs(const SignTask& task, int64_t first, int64_t last) {
  if (task.wide) return scan<double>(task, first, last);
  scan<float>(task, first, last);
}

}  // namespace FXMEM_ISA
}  // namespace fxmem
