#include <cstring>

#include "../arithmetic.h"
#include "../tensors.h"

namespace {

using namespace fxmem;

constexpr int64_t kSide = 32;        // of a square that is turned in L1
constexpr int64_t kBytes = 1 << 17;  // for which a thread is worth waking

// A square is read by whole lines before it is written: a power of two apart, its rows would drive
// each other out of L1.
template <typename T>
FXMEM_INLINE void turn_square(const T* from, T* to, int64_t rows, int64_t columns, int high,
                              int wide) {
  T square[kSide][kSide + 1];
  for (int i = 0; i < high; ++i)
    for (int j = 0; j < wide; ++j) square[j][i] = from[i * columns + j];
  for (int j = 0; j < wide; ++j) memcpy(to + j * rows, square[j], high * sizeof(T));
}

// [rows, columns] becomes [columns, rows].
template <typename T>
void turn(const T* from, T* to, int64_t rows, int64_t columns) {
  for (int64_t top = 0; top < rows; top += kSide) {
    const int high = static_cast<int>(std::min(kSide, rows - top));
    for (int64_t left = 0; left < columns; left += kSide) {
      const int wide = static_cast<int>(std::min(kSide, columns - left));
      const T* square = from + top * columns + left;
      if (high == kSide && wide == kSide) {
        turn_square(square, to + left * rows + top, rows, columns, kSide, kSide);
      } else {
        turn_square(square, to + left * rows + top, rows, columns, high, wide);
      }
    }
  }
}

template <typename T>
void turn_images(const Tensor& x, Tensor& out, int64_t channels, int64_t places) {
  const auto* from = static_cast<const T*>(x.const_data_ptr());
  auto* to = static_cast<T*>(out.mutable_data_ptr());
  const int64_t size = channels * places;
  const int64_t grain = kBytes / std::max<int64_t>(size * static_cast<int64_t>(sizeof(T)), 1) + 1;
  torch::stable::parallel_for(0, x.size(0), grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) turn(from + i * size, to + i * size, channels, places);
  });
}

Tensor channels_last(const Tensor& x) {
  check(x.dim() == 4, "fxmem::channels_last: x must be of 4 dimensions; got ", x.dim());
  const Tensor given = torch::stable::contiguous(x);
  const Shape size{x.size(0), x.size(2), x.size(3), x.size(1)};
  Tensor out = torch::stable::new_empty(x, size, x.scalar_type());
  if (out.numel() == 0) return out;
  const int64_t channels = x.size(1), places = x.size(2) * x.size(3);
  switch (x.element_size()) {
    case 1:
      turn_images<uint8_t>(given, out, channels, places);
      break;
    case 2:
      turn_images<uint16_t>(given, out, channels, places);
      break;
    case 4:
      turn_images<uint32_t>(given, out, channels, places);
      break;
    default:
      check(x.element_size() == 8, "fxmem::channels_last: x must be of 1, 2, 4 or 8 bytes; got ",
            x.element_size());
      turn_images<uint64_t>(given, out, channels, places);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) { m.impl("channels_last", TORCH_BOX(&channels_last)); }
