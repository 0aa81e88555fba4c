// A norm's backward from its output: its shapes and checks, before CPU or CUDA does the work; as
// fxmem/ops/norms/backward.py.
#pragma once

#include "activations_checks.h"
#include "codec.h"

namespace fxmem {

// The input is [outer, groups, depth, span]: a row is what is normalised, a group of one of outer;
// its channels are `depth`, each of `span` elements.
struct NormSizes {
  int64_t outer, groups, depth, span;

  constexpr int64_t channels() const { return groups * depth; }
};

// What undoes the affine map: weights below `least`, or further below their bias than `steepest`,
// count as 1.
struct NormLimits {
  double least, steepest;
};

struct NormBackward {
  Tensor grad, output, rstd;
  std::optional<Tensor> weight, bias, at, side;  // x_hat of the channels `at`: [outer, at, span]
  Tensor input_grad, weight_grad, bias_grad;     // the last two are empty where not asked for
  NormSizes sizes;
  ScalarType wide;  // float32, of float64 float64: of the statistics, of weight, bias and sums
};

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& x) {
  return x ? std::optional<Tensor>(torch::stable::contiguous(*x)) : std::nullopt;
}

inline NormSizes norm_sizes(const Tensor& output, const Tensor& rstd, int64_t channels,
                            int64_t groups) {
  const int64_t n = output.numel(), rows = rstd.numel();
  const bool divides = channels > 0 && groups > 0 && channels % groups == 0 && rows % groups == 0;
  const int64_t outer = divides ? rows / groups : 0;
  const int64_t span = outer > 0 ? n / (outer * channels) : 0;
  check(divides && outer * channels * span == n,
        "fxmem::norm_backward: output must be whole rows of whole channels; got ", n,
        " elements for ", rows, " rows, ", channels, " channels and ", groups, " groups");
  return {outer, groups, channels / groups, span};
}

inline void check_norm_tensor(const char* name, const Tensor& x, ScalarType dtype, int64_t numel,
                              const Tensor& output) {
  check(x.scalar_type() == dtype && x.numel() == numel, "fxmem::norm_backward: ", name, " must be ",
        numel, " of ", torch::headeronly::toString(dtype), "; got ", x.numel(), " of ",
        torch::headeronly::toString(x.scalar_type()));
  check_same_device("norm_backward", name, x, "output", output);
}

inline NormBackward prepare_norm_backward(const Tensor& grad, const Tensor& output,
                                          const Tensor& rstd, const std::optional<Tensor>& weight,
                                          const std::optional<Tensor>& bias,
                                          const std::optional<Tensor>& at,
                                          const std::optional<Tensor>& side, int64_t channels,
                                          int64_t groups, bool sums) {
  const ScalarType dtype = output.scalar_type();
  check_any_floating("norm_backward", "output", dtype);
  const ScalarType wide = dtype == ScalarType::Double ? dtype : ScalarType::Float;
  const NormSizes sizes = norm_sizes(output, rstd, channels, groups);
  check_norm_tensor("grad", grad, dtype, output.numel(), output);
  check_norm_tensor("rstd", rstd, wide, rstd.numel(), output);
  if (weight) check_norm_tensor("weight", *weight, wide, channels, output);
  if (bias) check_norm_tensor("bias", *bias, wide, channels, output);
  check(at.has_value() == side.has_value(),
        "fxmem::norm_backward: at and side must be given together; got one of them");
  if (at) {
    check_norm_tensor("at", *at, ScalarType::Long, at->numel(), output);
    check_norm_tensor("side", *side, dtype, sizes.outer * at->numel() * sizes.span, output);
  }
  const Tensor kept = torch::stable::contiguous(output);
  return {torch::stable::contiguous(grad),
          kept,
          torch::stable::contiguous(rstd),
          contiguous(weight),
          contiguous(bias),
          contiguous(at),
          contiguous(side),
          torch::stable::empty_like(kept),
          torch::stable::new_empty(output, Shape{sums && weight ? channels : 0}, wide),
          torch::stable::new_empty(output, Shape{sums && bias ? channels : 0}, wide),
          sizes,
          wide};
}

// The operator; run(to, limits, centred, sums) is what a device does where there are elements.
template <void (*run)(NormBackward&, NormLimits, bool, bool)>
std::tuple<Tensor, Tensor, Tensor> norm_backward(
    const Tensor& grad, const Tensor& output, const Tensor& rstd, std::optional<Tensor> weight,
    std::optional<Tensor> bias, std::optional<Tensor> at, std::optional<Tensor> side,
    int64_t channels, int64_t groups, bool centred, double least, double steepest, bool sums) {
  NormBackward to =
      prepare_norm_backward(grad, output, rstd, weight, bias, at, side, channels, groups, sums);
  if (output.numel() == 0) {
    torch::stable::zero_(to.weight_grad);
    torch::stable::zero_(to.bias_grad);
  } else {
    run(to, {least, steepest}, centred, sums);
  }
  return {to.input_grad, to.weight_grad, to.bias_grad};
}

}  // namespace fxmem
