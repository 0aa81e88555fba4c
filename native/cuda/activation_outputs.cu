// Activations on CUDA whose backward computes the slope from the output and a branch bit.
#include "activation_units.cuh"

namespace {

using namespace fxmem;

template <typename F, typename R>
__global__ void output_kernel(const void* x, void* y, uint8_t* branch, int64_t n, Stored dtype,
                              Function<F, R> f) {
  for_units(n, [&](Span span) {
    const Unit<R> in = load_unit<R>(x, dtype, span);
    store_unit(values(in, f), y, dtype, span);
    if constexpr (F::kBranches == 2) {
      uint64_t bits = 0;
#pragma unroll
      for (int v = 0; v < kUnit; ++v)
        bits |= static_cast<uint64_t>(F::branch(in.at[v], f.p.at)) << v;
      store_codes(bits, branch, 1, span);
    }
  });
}

template <typename F, typename R>
__global__ void slope_kernel(const void* grad, const void* y, const uint8_t* branch, void* out,
                             int64_t n, Stored dtype, Parameters<F, R> p) {
  for_units(n, [&](Span span) {
    const Unit<R> in = load_unit<R>(y, dtype, span);
    Unit<R> result = load_unit<R>(grad, dtype, span);
    const uint64_t bits = F::kBranches == 2 ? load_codes(branch, 1, span) : 0;
#pragma unroll
    for (int v = 0; v < kUnit; ++v)
      result.at[v] *= F::slope_from_output(in.at[v], ((bits >> v) & 1) != 0, p.at);
    store_unit(result, out, dtype, span);
  });
}

std::tuple<Tensor, Tensor> from_output(const Tensor& x, StringHandle function, Numbers parameters) {
  const std::string name = taken(function);
  const FromOutput to = prepare_from_output(x, name, parameters);
  auto* branch = static_cast<uint8_t*>(to.branch.mutable_data_ptr());
  const ScalarType dtype = x.scalar_type();
  with_function(name, dtype, [&](auto f, auto real) {
    using F = decltype(f);
    using R = decltype(real);
    if constexpr (F::kBranches != 0) {
      launch(x, units(x), &output_kernel<F, R>, to.in.const_data_ptr(), to.out.mutable_data_ptr(),
             branch, x.numel(), stored(dtype), Function<F, R>(parameters, dtype));
    }
  });
  return {to.out, to.branch};
}

Tensor from_output_backward(const Tensor& grad, const Tensor& y, const Tensor& branch,
                            StringHandle function, Numbers parameters) {
  const std::string name = taken(function);
  const FromOutput to = prepare_from_output_backward(grad, y, branch, name, parameters);
  const auto* bits = static_cast<const uint8_t*>(branch.const_data_ptr());
  with_activation(name, [&](auto f) {
    using F = decltype(f);
    if constexpr (F::kBranches != 0) {
      with_real(y.scalar_type(), [&](auto real) {
        using R = decltype(real);
        launch(y, units(y), &slope_kernel<F, R>, to.grad->const_data_ptr(), to.in.const_data_ptr(),
               bits, to.out.mutable_data_ptr(), y.numel(), stored(y.scalar_type()),
               Parameters<F, R>(to.parameters.data()));
      });
    }
  });
  return to.out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) {
  m.impl("from_output", TORCH_BOX(&from_output));
  m.impl("from_output_backward", TORCH_BOX(&from_output_backward));
}
