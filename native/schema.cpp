// Every operator of fxmem. fxmem/ops/native.py holds the same lines for machines without this
// library; tests/test_native.py compares the two.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fxmem, m) {
  m.def(
      "encode(Tensor x, int bits, int group, Tensor? seed=None) -> (Tensor codes, Tensor scales)");
  m.def(
      "decode(Tensor codes, Tensor scales, SymInt[] size, SymInt[] stride, int bits, int group, "
      "ScalarType dtype) -> Tensor");
  m.def("pack(Tensor x, int bits) -> Tensor");
  m.def(
      "unpack(Tensor packed, SymInt[] size, SymInt[] stride, int bits, ScalarType dtype) -> "
      "Tensor");
  m.def("classify(Tensor x, float[] borders, int bits, bool even=False) -> Tensor");
  m.def(
      "lookup(Tensor codes, float[] levels, int bits, SymInt[] size, SymInt[] stride, "
      "ScalarType dtype) -> Tensor");
  m.def(
      "few_bit(Tensor x, str function, float[] parameters, float[] borders, float[] levels, "
      "int bits, bool even=False, Tensor? seed=None) -> (Tensor y, Tensor codes)");
  m.def(
      "few_bit_backward(Tensor grad, Tensor codes, float[] levels, int bits, SymInt[] stride) -> "
      "Tensor");
  m.def("from_output(Tensor x, str function, float[] parameters) -> (Tensor y, Tensor branch)");
  m.def(
      "from_output_backward(Tensor grad, Tensor y, Tensor branch, str function, "
      "float[] parameters) -> Tensor");
  m.def("gated(Tensor gate, Tensor up, str function, float[] parameters) -> Tensor");
  m.def(
      "gated_backward(Tensor grad, Tensor gate, Tensor up, str function, float[] parameters) -> "
      "(Tensor gate_grad, Tensor up_grad)");
  m.def("sketch(Tensor x, str kind, SymInt rows, Tensor seed) -> Tensor");
  m.def("xnor_mm(Tensor a, Tensor b, SymInt n) -> Tensor");
  m.def("scaled_xnor_mm(Tensor a, Tensor b, SymInt n, Tensor left, Tensor right) -> Tensor");
  m.def("channels_last(Tensor x) -> Tensor");
  m.def("signs(Tensor x) -> (Tensor bits, Tensor passes, Tensor magnitude)");
  m.def(
      "windows(Tensor x, int fill, SymInt[] kernel, SymInt[] stride, SymInt[] spread, "
      "SymInt[] before, SymInt[] dilation, SymInt[] outs, SymInt groups) -> Tensor");
  m.def(
      "absmax(Tensor x, Tensor? factor, bool by_column, int levels, Tensor? seed=None) -> "
      "(Tensor codes, Tensor scale)");
  m.def(
      "norm_backward(Tensor grad, Tensor output, Tensor rstd, Tensor? weight, Tensor? bias, "
      "Tensor? at, Tensor? side, SymInt channels, SymInt groups, bool centred, float least, "
      "float steepest, bool sums) -> (Tensor input_grad, Tensor weight_grad, Tensor bias_grad)");
  m.def(
      "shrink(Tensor v, Tensor numbers, int n, int d, int bound) -> "
      "(Tensor product, Tensor numbers_out, Tensor spilled)");
  m.def(
      "unshrink(Tensor v, Tensor numbers, Tensor? spilled, int n, int d, int bound) -> "
      "(Tensor product, Tensor numbers_out)");
}
