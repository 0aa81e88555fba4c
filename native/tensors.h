// What the CPU and CUDA entry points share: memory order, allocation, and the checks, which name
// the argument, what was wanted and what came.
#pragma once

#include <algorithm>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace fxmem {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (condition) return;
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw std::runtime_error(sentence.str());
}

inline bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
}

// True if the elements fill one block of memory, each address once: a permutation of contiguous.
template <typename Sizes>
bool is_dense(const Sizes& size, const Sizes& stride) {
  std::vector<std::pair<int64_t, int64_t>> dims;
  for (size_t d = 0; d < size.size(); ++d) {
    if (size[d] == 0) return true;
    if (size[d] != 1) dims.emplace_back(stride[d], size[d]);
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [step, length] : dims) {
    if (step != expected) return false;
    expected *= length;
  }
  return true;
}

// x itself if its storage order is its memory order, else a contiguous copy.
inline Tensor in_memory_order(const Tensor& x) {
  return is_dense(x.sizes(), x.strides()) ? x : torch::stable::contiguous(x);
}

inline std::string words(const Shape& numbers) {
  std::ostringstream text;
  for (size_t i = 0; i < numbers.size(); ++i) text << (i != 0 ? ", " : "[") << numbers[i];
  return numbers.empty() ? "[]" : text.str() + "]";
}

inline int64_t count(const Shape& size) {
  int64_t n = 1;
  for (const int64_t length : size) n *= length;
  return n;
}

inline Tensor empty_dense(const char* op, const Tensor& like, const Shape& size,
                          const Shape& stride, ScalarType dtype) {
  check(size.size() == stride.size() && is_dense(size, stride), "fxmem::", op,
        ": stride must be dense for size ", words(size),
        ", a permutation of a contiguous layout; got ", words(stride));
  AtenTensorHandle handle = nullptr;
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(size.size()), size.data(), stride.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device_type,
      like.get_device_index(), &handle));
  return Tensor(handle);
}

inline void check_same_device(const char* op, const char* name, const Tensor& it, const char* other,
                              const Tensor& reference) {
  const bool same = it.is_cuda() == reference.is_cuda() && it.is_cpu() == reference.is_cpu() &&
                    it.get_device_index() == reference.get_device_index();
  check(same, "fxmem::", op, ": ", name, " must be on the device of ", other, "; got another");
}

}  // namespace fxmem
