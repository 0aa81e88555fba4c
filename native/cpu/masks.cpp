#include "../masks.h"

#include "kernels.h"

namespace {

using namespace fxmem;

constexpr int64_t kGrain = 8192;  // units of eight elements

Tensor pack(const Tensor& x, int64_t bits) {
  const Packing to = prepare_pack(x, bits);
  const MaskTask task{static_cast<const uint8_t*>(to.x.const_data_ptr()),
                      static_cast<uint8_t*>(to.packed.mutable_data_ptr()), x.numel()};
  torch::stable::parallel_for(0, ceil_div(task.n, 8), kGrain, [&](int64_t first, int64_t last) {
    kernels().pack(task, static_cast<int>(bits), first, last);
  });
  return to.packed;
}

Tensor unpack(const Tensor& packed, Shape size, Shape stride, int64_t bits, ScalarType dtype) {
  Tensor out = prepare_unpack(packed, size, stride, bits, dtype);
  const MaskTask task{static_cast<const uint8_t*>(packed.const_data_ptr()),
                      static_cast<uint8_t*>(out.mutable_data_ptr()), out.numel()};
  torch::stable::parallel_for(0, ceil_div(task.n, 8), kGrain, [&](int64_t first, int64_t last) {
    kernels().unpack(task, static_cast<int>(bits), first, last);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) {
  m.impl("pack", TORCH_BOX(&pack));
  m.impl("unpack", TORCH_BOX(&unpack));
}
