#include "../xnor.h"

#include <cstring>

#include "kernels.h"

namespace {

using namespace fxmem;

constexpr int64_t kWork = 1 << 16;  // words compared, for which a thread is worth waking

// b's rows in panels of kXnorColumns, word by word: a vector of them is of as many rows.
std::vector<uint64_t> panels(const uint8_t* b, int64_t rows, int64_t words) {
  const int64_t count = ceil_div(rows, kXnorColumns);
  std::vector<uint64_t> out(count * kXnorColumns * words, 0);
  for (int64_t j = 0; j < rows; ++j) {
    uint64_t* panel = out.data() + j / kXnorColumns * kXnorColumns * words + j % kXnorColumns;
    for (int64_t w = 0; w < words; ++w)
      memcpy(panel + w * kXnorColumns, b + (j * words + w) * 8, sizeof(uint64_t));
  }
  return out;
}

void run(const Tensor& a, const Tensor& b, int64_t n, const XnorOutput& out) {
  const Tensor left = torch::stable::contiguous(a), right = torch::stable::contiguous(b);
  const int64_t words = a.size(1) / 8;
  const std::vector<uint64_t> columns =
      panels(static_cast<const uint8_t*>(right.const_data_ptr()), b.size(0), words);
  const auto* rows = static_cast<const uint8_t*>(left.const_data_ptr());
  const XnorTask task{out, rows, columns.data(), b.size(0), words, n};
  const int64_t grain = kWork / std::max<int64_t>(words * b.size(0), 1) + 1;
  torch::stable::parallel_for(
      0, a.size(0), grain, [&](int64_t first, int64_t last) { kernels().xnor(task, first, last); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) {
  m.impl("xnor_mm", TORCH_BOX(&xnor_mm<run>));
  m.impl("scaled_xnor_mm", TORCH_BOX(&scaled_xnor_mm<run>));
}
