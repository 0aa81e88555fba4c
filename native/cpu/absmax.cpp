#include "../absmax.h"

#include "kernels.h"

namespace {

using namespace fxmem;

constexpr int64_t kElements = 1 << 16;  // for which a thread is worth waking

std::tuple<Tensor, Tensor> absmax(const Tensor& x, std::optional<Tensor> factor, bool by_column,
                                  int64_t levels, std::optional<Tensor> seed) {
  const Quantization to = prepare_absmax(x, factor, by_column, levels, seed);
  const AbsmaxTask task{
      static_cast<const float*>(to.x.const_data_ptr()),
      to.factor ? static_cast<const float*>(to.factor->const_data_ptr()) : nullptr,
      static_cast<int8_t*>(to.codes.mutable_data_ptr()),
      static_cast<float*>(to.scale.mutable_data_ptr()),
      x.size(0),
      x.size(1),
      to.factor ? to.factor->numel() : x.size(1),
      static_cast<float>(levels),
      by_column,
      seed ? static_cast<const int64_t*>(seed->const_data_ptr()) : nullptr};
  const int64_t parts = by_column ? ceil_div(x.size(1), kAbsmaxColumns) : x.size(0);
  const int64_t size = by_column ? x.size(0) * kAbsmaxColumns : x.size(1);
  const int64_t grain = kElements / std::max<int64_t>(size, 1) + 1;
  torch::stable::parallel_for(
      0, parts, grain, [&](int64_t first, int64_t last) { kernels().absmax(task, first, last); });
  return {to.codes, to.scale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) { m.impl("absmax", TORCH_BOX(&absmax)); }
