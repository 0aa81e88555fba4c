#include "../sketch.h"

#include "kernels.h"

namespace {

using namespace fxmem;

Element element(ScalarType dtype) {
  if (dtype == ScalarType::Float) return kFloat32;
  if (dtype == ScalarType::BFloat16) return kBFloat16;
  return dtype == ScalarType::Half ? kFloat16 : kFloat64;
}

Tensor sketch(const Tensor& x, StringHandle kind, int64_t rows, const Tensor& seed) {
  const Sketching to = prepare_sketch(x, taken(kind), rows, seed);
  if (to.n == 0 || to.width == 0) return to.out;
  const SketchTask task{to.x.const_data_ptr(),
                        to.out.mutable_data_ptr(),
                        to.kind,
                        to.n,
                        to.rows,
                        to.width,
                        to.stride,
                        static_cast<uint64_t>(*static_cast<const int64_t*>(seed.const_data_ptr()))};
  const int64_t parts = block_count(to.n, to.rows) * ceil_div(to.width, kSketchColumns);
  const Element type = element(x.scalar_type());
  torch::stable::parallel_for(
      0, parts, 1, [&](int64_t first, int64_t last) { kernels().sketch(task, type, first, last); });
  return to.out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) { m.impl("sketch", TORCH_BOX(&sketch)); }
