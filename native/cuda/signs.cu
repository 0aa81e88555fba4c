// The signs of a matrix, the mask of its gradient and the mean magnitude of its rows on CUDA.
#include "../signs.h"

#include "elements.cuh"
#include "launch.h"

namespace {

using namespace fxmem;

constexpr int kByte = 8;  // elements of a byte of each stream

template <typename T>
__global__ void flags_kernel(const T* x, uint8_t* bits, uint8_t* passes, int64_t n, bool aligned) {
  for (int64_t b = this_thread(); b * kByte < n; b += all_threads()) {
    const int64_t left = n - b * kByte;
    const int present = static_cast<int>(left < kByte ? left : kByte);
    const Block<T, kByte> loaded = load<kByte>(x + b * kByte, present, aligned);
    int above = 0, inside = 0;
#pragma unroll
    for (int v = 0; v < kByte; ++v) {
      if (v >= present) continue;
      above |= (loaded.at[v] >= 0 ? 1 : 0) << v;
      inside |= (::fabs(loaded.at[v]) <= 1 ? 1 : 0) << v;
    }
    bits[b] = static_cast<uint8_t>(above);
    passes[b] = static_cast<uint8_t>(inside);
  }
}

// A lane adds up every 16th magnitude of a row.
template <typename T>
__global__ void means_kernel(const T* x, T* means, int64_t rows, int64_t columns) {
  const int64_t stride = all_threads() / kSignLanes;
  const int lane = threadIdx.x % kSignLanes;
  const int64_t start = this_thread() / kSignLanes;
  // Whole warps stay in the loop: the shuffles want every lane.
  for (int64_t row = start; __any_sync(0xFFFFFFFFU, row < rows); row += stride) {
    double sum = 0;
    if (row < rows) {
      for (int64_t i = lane; i < columns; i += kSignLanes) sum += ::fabs(x[row * columns + i]);
    }
    for (int half = kSignLanes / 2; half > 0; half /= 2)
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, half);
    if (lane == 0 && row < rows)
      means[row] = columns == 0 ? T{0} : static_cast<T>(sum / static_cast<double>(columns));
  }
}

template <typename T>
void run(Signs& to) {
  const auto* x = static_cast<const T*>(to.x.const_data_ptr());
  const int64_t n = to.x.numel(), rows = to.x.size(0);
  const bool aligned = is_aligned(x, sizeof(Block<T, kByte>));
  launch(to.x, ceil_div(n, kByte), &flags_kernel<T>, x,
         static_cast<uint8_t*>(to.bits.mutable_data_ptr()),
         static_cast<uint8_t*>(to.passes.mutable_data_ptr()), n, aligned);
  launch(to.x, rows * kSignLanes, &means_kernel<T>, x,
         static_cast<T*>(to.magnitude.mutable_data_ptr()), rows, to.x.size(1));
}

std::tuple<Tensor, Tensor, Tensor> signs(const Tensor& x) {
  Signs to = prepare_signs(x);
  if (x.scalar_type() == ScalarType::Double) {
    run<double>(to);
  } else {
    run<float>(to);
  }
  return {to.bits, to.passes, to.magnitude};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) { m.impl("signs", TORCH_BOX(&signs)); }
