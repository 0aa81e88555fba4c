// Activations on CUDA whose backward computes the slope from the output and a branch bit.
#include "activation_units.cuh"

namespace {

using namespace fxmem;

template <typename F, typename R>
__global__ void output_kernel(const void* x, void* y, uint8_t* branch, int64_t n, Stored dtype,
                              Parameters<F, R> p) {
  for_units(n, [&](Span span) {
    const Unit<R> in = load_unit<R>(x, dtype, span);
    Unit<R> out;
    uint64_t bits = 0;
#pragma unroll
    for (int v = 0; v < kUnit; ++v) {
      out.at[v] = F::value(in.at[v], p.at);
      if constexpr (F::kBranches == 2)
        bits |= static_cast<uint64_t>(F::branch(in.at[v], p.at)) << v;
    }
    store_unit(out, y, dtype, span);
    if constexpr (F::kBranches == 2) store_codes(bits, branch, 1, span);
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

// call(F{}, R{}) for a function whose slope follows from its output.
template <typename Call>
void with_invertible(const std::string& function, ScalarType dtype, const Call& call) {
  with_function(function, dtype, [&](auto f, auto real) {
    if constexpr (decltype(f)::kBranches != 0) call(f, real);
  });
}

std::tuple<Tensor, Tensor> from_output(const Tensor& x, StringHandle function, Numbers parameters) {
  const std::string name = taken(function);
  const FromOutput to = prepare_from_output(x, name, parameters);
  auto* branch = static_cast<uint8_t*>(to.branch.mutable_data_ptr());
  with_invertible(name, x.scalar_type(), [&](auto f, auto real) {
    using F = decltype(f);
    using R = decltype(real);
    launch(x, units(x), &output_kernel<F, R>, to.in.const_data_ptr(), to.out.mutable_data_ptr(),
           branch, x.numel(), stored(x.scalar_type()), Parameters<F, R>(parameters));
  });
  return {to.out, to.branch};
}

Tensor from_output_backward(const Tensor& grad, const Tensor& y, const Tensor& branch,
                            StringHandle function, Numbers parameters) {
  const std::string name = taken(function);
  const FromOutput to = prepare_from_output_backward(grad, y, branch, name, parameters);
  const auto* bits = static_cast<const uint8_t*>(branch.const_data_ptr());
  with_invertible(name, y.scalar_type(), [&](auto f, auto real) {
    using F = decltype(f);
    using R = decltype(real);
    launch(y, units(y), &slope_kernel<F, R>, to.grad->const_data_ptr(), to.in.const_data_ptr(),
           bits, to.out.mutable_data_ptr(), y.numel(), stored(y.scalar_type()),
           Parameters<F, R>(to.parameters));
  });
  return to.out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) {
  m.impl("from_output", TORCH_BOX(&from_output));
  m.impl("from_output_backward", TORCH_BOX(&from_output_backward));
}
