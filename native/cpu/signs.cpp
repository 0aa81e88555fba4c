#include "../signs.h"

#include "kernels.h"

namespace {

using namespace fxmem;

constexpr int64_t kElements = 1 << 16;  // for which a thread is worth waking

std::tuple<Tensor, Tensor, Tensor> signs(const Tensor& x) {
  Signs to = prepare_signs(x);
  const SignTask task{to.x.const_data_ptr(),
                      static_cast<uint8_t*>(to.bits.mutable_data_ptr()),
                      static_cast<uint8_t*>(to.passes.mutable_data_ptr()),
                      to.magnitude.mutable_data_ptr(),
                      x.size(0),
                      x.size(1),
                      x.scalar_type() == ScalarType::Double};
  const int64_t grain = kElements / std::max<int64_t>(kSignRows * x.size(1), 1) + 1;
  torch::stable::parallel_for(
      0, ceil_div(x.size(0), kSignRows), grain,
      [&](int64_t first, int64_t last) { kernels().signs(task, first, last); });
  return {to.bits, to.passes, to.magnitude};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) { m.impl("signs", TORCH_BOX(&signs)); }
