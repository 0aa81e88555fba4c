// Gated activations on CUDA: function(gate) * up.
#include "activation_units.cuh"

namespace {

using namespace fxmem;

template <typename F, typename R>
__global__ void gated_kernel(const void* gate, const void* up, void* out, int64_t n, Stored dtype,
                             Function<F, R> f) {
  for_units(n, [&](Span span) {
    const Unit<R> x = load_unit<R>(gate, dtype, span);
    const Unit<R> value = values(x, f);
    Unit<R> result = load_unit<R>(up, dtype, span);
#pragma unroll
    for (int v = 0; v < kUnit; ++v) result.at[v] *= value.at[v];
    store_unit(result, out, dtype, span);
  });
}

template <typename F, typename R>
__global__ void gated_backward_kernel(const void* grad, const void* gate, const void* up,
                                      void* gate_grad, void* up_grad, int64_t n, Stored dtype,
                                      Function<F, R> f) {
  for_units(n, [&](Span span) {
    const Unit<R> x = load_unit<R>(gate, dtype, span);
    const Unit<R> value = values(x, f), slope = slopes(x, f);
    Unit<R> to_gate = load_unit<R>(up, dtype, span);
    Unit<R> to_up = load_unit<R>(grad, dtype, span);
#pragma unroll
    for (int v = 0; v < kUnit; ++v) {
      to_gate.at[v] *= to_up.at[v] * slope.at[v];
      to_up.at[v] *= value.at[v];
    }
    store_unit(to_gate, gate_grad, dtype, span);
    store_unit(to_up, up_grad, dtype, span);
  });
}

Tensor gated(const Tensor& gate, const Tensor& up, StringHandle function, Numbers parameters) {
  const std::string name = taken(function);
  const Gated to = prepare_gated("gated", std::nullopt, gate, up, name, parameters);
  with_function(name, gate.scalar_type(), [&](auto f, auto real) {
    using F = decltype(f);
    using R = decltype(real);
    launch(gate, units(gate), &gated_kernel<F, R>, to.gate.const_data_ptr(), to.up.const_data_ptr(),
           to.out.mutable_data_ptr(), gate.numel(), stored(gate.scalar_type()),
           Function<F, R>(parameters, gate.scalar_type()));
  });
  return to.out;
}

std::tuple<Tensor, Tensor> gated_backward(const Tensor& grad, const Tensor& gate, const Tensor& up,
                                          StringHandle function, Numbers parameters) {
  const std::string name = taken(function);
  const Gated to = prepare_gated("gated_backward", grad, gate, up, name, parameters);
  with_function(name, gate.scalar_type(), [&](auto f, auto real) {
    using F = decltype(f);
    using R = decltype(real);
    launch(gate, units(gate), &gated_backward_kernel<F, R>, to.grad->const_data_ptr(),
           to.gate.const_data_ptr(), to.up.const_data_ptr(), to.out.mutable_data_ptr(),
           to.up_grad.mutable_data_ptr(), gate.numel(), stored(gate.scalar_type()),
           Function<F, R>(parameters, gate.scalar_type()));
  });
  return {to.out, to.up_grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) {
  m.impl("gated", TORCH_BOX(&gated));
  m.impl("gated_backward", TORCH_BOX(&gated_backward));
}
