// Every operator of fxmem. fxmem/ops/library.py holds the same lines for machines without this
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
}
