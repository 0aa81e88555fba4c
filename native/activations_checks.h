// What the activation operators refuse, in a sentence, as fxmem/ops/activations/checks.py does.
#pragma once

#include <cmath>

#include "codec.h"
#include "generated/activations.h"

namespace fxmem {

using Numbers = std::vector<double>;

// The text of a str argument, whose handle it deletes. An argument of type std::string would do,
// but torch's conversion to it (2.10 to 2.13) loses 48 bytes a call, which in time keep the heap
// from being reused.
inline std::string taken(StringHandle handle) {
  size_t length = 0;
  const char* text = nullptr;
  TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
  TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &text));
  std::string result(text, length);
  TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
  return result;
}

// What is to be known of an activation and its parameters before it is computed.
struct Traits {
  int parameters = -1;
  bool stepwise = false;
  int branches = 0;
  bool invertible = false;
};

inline Traits traits_of(const char* op, const std::string& function, const Numbers& parameters) {
  Traits traits;
  with_activation(function, [&](auto f) {
    using F = decltype(f);
    traits = {F::kParameters, F::kStepwise, F::kBranches, false};
    if constexpr (F::kBranches != 0)
      traits.invertible = parameters.size() == F::kParameters && F::invertible(parameters.data());
  });
  check(traits.parameters >= 0, "fxmem::", op, ": function must be one of the table's; got ",
        function);
  check(parameters.size() == static_cast<size_t>(traits.parameters), "fxmem::", op,
        ": parameters must be ", traits.parameters, " for ", function, "; got ", parameters.size());
  return traits;
}

inline Traits invertible_traits(const char* op, const std::string& function,
                                const Numbers& parameters) {
  const Traits traits = traits_of(op, function, parameters);
  check(traits.branches != 0 && traits.invertible, "fxmem::", op,
        ": function must be one whose slope follows from its output, with parameters that allow "
        "it; got ",
        function);
  return traits;
}

inline void check_any_floating(const char* op, const char* name, ScalarType dtype) {
  check(is_floating(dtype) || dtype == ScalarType::Double, "fxmem::", op, ": ", name,
        " must be float32, bfloat16, float16 or float64; got ", torch::headeronly::toString(dtype));
}

inline void check_width(const char* op, int64_t bits) {
  check(bits >= 1 && bits <= 8, "fxmem::", op, ": bits must be 1 to 8; got ", bits);
}

inline void check_ascending(const char* op, const char* name, const Numbers& numbers) {
  bool ascending = numbers.empty() || !std::isnan(numbers[0]);
  for (size_t i = 1; i < numbers.size(); ++i) ascending &= numbers[i - 1] <= numbers[i];
  check(ascending, "fxmem::", op, ": ", name, " must be in ascending order; got others");
}

inline void check_borders(const char* op, const Numbers& borders, int64_t bits) {
  check_width(op, bits);
  check_ascending(op, "borders", borders);
  check(borders.size() < size_t{1} << bits, "fxmem::", op, ": borders must be at most ",
        (1 << bits) - 1, " for bits ", bits, "; got ", borders.size());
}

inline void check_levels(const char* op, const Numbers& levels, int64_t bits) {
  check_width(op, bits);
  check(!levels.empty() && levels.size() <= size_t{1} << bits, "fxmem::", op,
        ": levels must be 1 to ", 1 << bits, " for bits ", bits, "; got ", levels.size());
}

inline void check_stream(const char* op, const char* name, const Tensor& codes, const Shape& size,
                         int64_t bits) {
  const int64_t bytes = ceil_div(count(size) * bits, 8);
  check(codes.scalar_type() == ScalarType::Byte && codes.numel() == bytes && codes.is_contiguous(),
        "fxmem::", op, ": ", name, " must be ", bytes, " contiguous Byte for size ", words(size),
        " and bits ", bits, "; got ", codes.numel(), " of ",
        torch::headeronly::toString(codes.scalar_type()));
}

inline Shape size_of(const Tensor& x) { return {x.sizes().begin(), x.sizes().end()}; }
inline Shape stride_of(const Tensor& x) { return {x.strides().begin(), x.strides().end()}; }

inline void check_alike(const char* op, const char* name, const Tensor& it, const char* other,
                        const Tensor& reference) {
  check(size_of(it) == size_of(reference) && it.scalar_type() == reference.scalar_type(),
        "fxmem::", op, ": ", name, " must be of the shape and dtype of ", other, "; got ",
        words(size_of(it)), " of ", torch::headeronly::toString(it.scalar_type()));
  check_same_device(op, name, it, other, reference);
}

}  // namespace fxmem
