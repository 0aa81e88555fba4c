#include "../codec.h"

#include "kernels.h"

namespace {

using namespace fxmem;

constexpr int64_t kGrain =
    32768;  // elements a thread is worth waking for, as in torch's own kernels

Element element(ScalarType dtype) {
  if (dtype == ScalarType::Float) return kFloat32;
  return dtype == ScalarType::BFloat16 ? kBFloat16 : kFloat16;
}

std::tuple<Tensor, Tensor> encode(const Tensor& x, int64_t bits, int64_t group,
                                  std::optional<Tensor> seed) {
  const Encoding to = prepare_encode(x, bits, group, seed);
  const EncodeTask task{to.x.const_data_ptr(),
                        static_cast<uint8_t*>(to.codes.mutable_data_ptr()),
                        static_cast<uint16_t*>(to.scales.mutable_data_ptr()),
                        x.numel(),
                        static_cast<int>(group),
                        seed ? static_cast<const int64_t*>(seed->const_data_ptr()) : nullptr};
  const Element type = element(x.scalar_type());
  const auto run = [&](int64_t first, int64_t last) {
    kernels().encode(task, type, static_cast<int>(bits), first, last);
  };
  torch::stable::parallel_for(0, ceil_div(task.n, group), kGrain / group, run);
  return {to.codes, to.scales};
}

Tensor decode(const Tensor& codes, const Tensor& scales, Shape size, Shape stride, int64_t bits,
              int64_t group, ScalarType dtype) {
  Tensor out = prepare_decode(codes, scales, size, stride, bits, group, dtype);
  const DecodeTask task{static_cast<const uint8_t*>(codes.const_data_ptr()),
                        static_cast<const uint16_t*>(scales.const_data_ptr()),
                        out.mutable_data_ptr(), out.numel(), static_cast<int>(group)};
  const Element type = element(dtype);
  const auto run = [&](int64_t first, int64_t last) {
    kernels().decode(task, type, static_cast<int>(bits), first, last);
  };
  torch::stable::parallel_for(0, ceil_div(task.n, group), kGrain / group, run);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) {
  m.impl("encode", TORCH_BOX(&encode));
  m.impl("decode", TORCH_BOX(&decode));
}
