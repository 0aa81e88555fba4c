// The activation operators' tensors, before CPU or CUDA computes what is in them.
#pragma once

#include <torch/headeronly/util/Half.h>

#include "activations_checks.h"

namespace fxmem {

// A fresh tensor laid out like x, which is dense.
inline Tensor like(const char* op, const Tensor& x) {
  return empty_dense(op, x, size_of(x), stride_of(x), x.scalar_type());
}

inline Tensor new_codes(const Tensor& x, int64_t bits) {
  return torch::stable::new_empty(x, Shape{ceil_div(x.numel() * bits, 8)}, ScalarType::Byte);
}

// x with the layout of these dense strides: x itself, if it has it.
inline Tensor laid_out(const char* op, const Tensor& x, const Shape& stride) {
  const Shape size = size_of(x);
  bool same = true;
  for (size_t d = 0; d < size.size(); ++d) same &= size[d] <= 1 || x.strides()[d] == stride[d];
  if (same) return x;
  Tensor copy = empty_dense(op, x, size, stride, x.scalar_type());
  torch::stable::copy_(copy, x);
  return copy;
}

// A function's parameters as its output holds them, where y is compared with them.
inline Numbers rounded(Numbers parameters, ScalarType dtype) {
  for (double& parameter : parameters) {
    const auto value = static_cast<float>(parameter);
    if (dtype == ScalarType::Float) parameter = value;
    if (dtype == ScalarType::BFloat16 && std::isfinite(value)) parameter = round_bf16(value);
    if (dtype == ScalarType::Half) parameter = static_cast<float>(c10::Half(value));
  }
  return parameters;
}

struct Classified {
  Tensor x, y, codes;  // y: of few_bit alone
  bool stepwise = false;
};

inline Classified prepare_classify(const Tensor& x, const Numbers& borders, int64_t bits) {
  check_any_floating("classify", "x", x.scalar_type());
  check_borders("classify", borders, bits);
  return {in_memory_order(x), x, new_codes(x, bits)};
}

inline Classified prepare_few_bit(const Tensor& x, const std::string& function,
                                  const Numbers& parameters, const Numbers& borders,
                                  const Numbers& levels, int64_t bits,
                                  const std::optional<Tensor>& seed) {
  constexpr auto kOp = "few_bit";
  const Traits traits = traits_of(kOp, function, parameters);
  check_any_floating(kOp, "x", x.scalar_type());
  check_borders(kOp, borders, bits);
  check_levels(kOp, levels, bits);
  const size_t wanted = traits.stepwise || seed ? 0 : levels.size() - 1;
  check(borders.size() == wanted, "fxmem::few_bit: borders must be ", wanted, " for ",
        levels.size(), " levels of ", function, seed ? ", drawn" : "", "; got ", borders.size());
  if (seed) {
    check_ascending(kOp, "levels", levels);
    check(seed->scalar_type() == ScalarType::Long && seed->numel() == 1,
          "fxmem::few_bit: seed must be an int64 tensor of one element; got ", seed->numel(),
          " of ", torch::headeronly::toString(seed->scalar_type()));
    check_same_device(kOp, "seed", *seed, "x", x);
  }
  const Tensor from = in_memory_order(x);
  return {from, like(kOp, from), new_codes(x, bits), traits.stepwise};
}

struct LookedUp {
  std::optional<Tensor> grad;
  Tensor out;
};

inline LookedUp prepare_lookup(const Tensor& codes, const Numbers& levels, int64_t bits,
                               const Shape& size, const Shape& stride, ScalarType dtype) {
  check_levels("lookup", levels, bits);
  check_any_floating("lookup", "dtype", dtype);
  check_stream("lookup", "codes", codes, size, bits);
  return {std::nullopt, empty_dense("lookup", codes, size, stride, dtype)};
}

inline LookedUp prepare_few_bit_backward(const Tensor& grad, const Tensor& codes,
                                         const Numbers& levels, int64_t bits, const Shape& stride) {
  constexpr auto kOp = "few_bit_backward";
  check_levels(kOp, levels, bits);
  check_any_floating(kOp, "grad", grad.scalar_type());
  check_stream(kOp, "codes", codes, size_of(grad), bits);
  check_same_device(kOp, "codes", codes, "grad", grad);
  const Tensor out = empty_dense(kOp, grad, size_of(grad), stride, grad.scalar_type());
  return {laid_out(kOp, grad, stride), out};
}

struct FromOutput {
  std::optional<Tensor> grad;
  Tensor in, out, branch;  // in: x, or in the backward y
  Numbers parameters;
  bool two_branches;
};

inline FromOutput prepare_from_output(const Tensor& x, const std::string& function,
                                      const Numbers& parameters) {
  constexpr auto kOp = "from_output";
  const Traits traits = invertible_traits(kOp, function, parameters);
  check_any_floating(kOp, "x", x.scalar_type());
  const Tensor from = in_memory_order(x);
  const Tensor branch = new_codes(x, traits.branches - 1);
  return {std::nullopt, from, like(kOp, from), branch, parameters, traits.branches == 2};
}

inline FromOutput prepare_from_output_backward(const Tensor& grad, const Tensor& y,
                                               const Tensor& branch, const std::string& function,
                                               const Numbers& parameters) {
  constexpr auto kOp = "from_output_backward";
  const Traits traits = invertible_traits(kOp, function, parameters);
  check_any_floating(kOp, "y", y.scalar_type());
  check_alike(kOp, "grad", grad, "y", y);
  check_stream(kOp, "branch", branch, size_of(y), traits.branches - 1);
  check_same_device(kOp, "branch", branch, "y", y);
  const Tensor from = in_memory_order(y);
  return {laid_out(kOp, grad, stride_of(from)),
          from,
          like(kOp, from),
          branch,
          traits.stepwise ? rounded(parameters, y.scalar_type()) : parameters,
          traits.branches == 2};
}

struct Gated {
  std::optional<Tensor> grad;
  Tensor gate, up, out, up_grad;  // out: in the backward the gradient of gate; up_grad: there alone
};

inline Gated prepare_gated(const char* op, const std::optional<Tensor>& grad, const Tensor& gate,
                           const Tensor& up, const std::string& function,
                           const Numbers& parameters) {
  traits_of(op, function, parameters);
  check_any_floating(op, "gate", gate.scalar_type());
  check_alike(op, "up", up, "gate", gate);
  const Tensor from = in_memory_order(gate);
  const Tensor other = laid_out(op, up, stride_of(from)), out = like(op, from);
  if (!grad) return {std::nullopt, from, other, out, out};
  check_alike(op, "grad", *grad, "gate", gate);
  return {laid_out(op, *grad, stride_of(from)), from, other, out, like(op, from)};
}

}  // namespace fxmem
