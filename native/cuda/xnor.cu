// Products of signs on CUDA: tiles of differing bits, counted by __popcll.
#include "../xnor.h"

#include "../xnor_tiles.h"
#include "launch.h"

namespace {

using namespace fxmem;

static_assert(kTileThreads == kThreads, "a block works on a tile");

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
