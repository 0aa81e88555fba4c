// Shapes and checks of a convolution's windows, before the work is done.
#pragma once

#include <limits>
#include <string>

#include "codec.h"

namespace fxmem {

struct Windows {
  int64_t kernel[2], stride[2], spread[2], before[2], dilation[2], outs[2];
};

constexpr int64_t kAny = std::numeric_limits<int64_t>::min();

inline void take_pair(const char* name, const Shape& given, int64_t least, int64_t (&pair)[2]) {
  check(given.size() == 2 && given[0] >= least && given[1] >= least, "fxmem::windows: ", name,
        " must be 2 numbers", least == kAny ? "" : " of at least " + std::to_string(least),
        "; got ", words(given));
  pair[0] = given[0];
  pair[1] = given[1];
}

inline void check_windows(const Tensor& x, int64_t fill, int64_t groups) {
  const ScalarType type = x.scalar_type();
  const bool is_signed = type == ScalarType::Char;
  check(x.dim() == 4 && (is_signed || type == ScalarType::Byte),
        "fxmem::windows: x must be [batch, height, width, channels] of int8 or uint8; got ",
        words(Shape(x.sizes().begin(), x.sizes().end())), " of ",
        torch::headeronly::toString(type));
  const int64_t low = is_signed ? -128 : 0;
  check(fill >= low && fill <= low + 255, "fxmem::windows: fill must be ", low, " to ", low + 255,
        "; got ", fill);
  check(groups >= 1 && x.size(3) % groups == 0, "fxmem::windows: groups must be a divisor of ",
        x.size(3), " channels; got ", groups);
}

}  // namespace fxmem
