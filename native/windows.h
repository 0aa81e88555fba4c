// Shapes and checks of a convolution's windows, before the work is done, and what lies where.
#pragma once

#include <limits>
#include <string>

#include "arithmetic.h"
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

struct WindowTask {
  const uint8_t* x;
  uint8_t* out;
  int fill;
  Windows to;
  int64_t size[2], channels, groups, places;

  FXMEM_MEMBER int64_t part() const { return channels / groups; }
  FXMEM_MEMBER int64_t row() const { return to.kernel[0] * to.kernel[1] * part(); }
};

// The place in x that a window's element reads along a dimension; below 0 where there is none.
FXMEM_INLINE int64_t window_source(const WindowTask& task, int d, int64_t out, int64_t k) {
  const int64_t at = out * task.to.stride[d] + k * task.to.dilation[d] - task.to.before[d];
  if (at < 0 || at % task.to.spread[d] != 0) return -1;
  const int64_t place = at / task.to.spread[d];
  return place < task.size[d] ? place : -1;
}

// The operator, of a device whose kernel fills an output.
using WindowsRun = void (*)(const Tensor& x, const WindowTask& task);

template <WindowsRun run>
Tensor windows(const Tensor& x, int64_t fill, Shape kernel, Shape stride, Shape spread,
               Shape before, Shape dilation, Shape outs, int64_t groups) {
  check_windows(x, fill, groups);
  Windows to;
  take_pair("kernel", kernel, 1, to.kernel);
  take_pair("stride", stride, 1, to.stride);
  take_pair("spread", spread, 1, to.spread);
  take_pair("before", before, kAny, to.before);
  take_pair("dilation", dilation, 1, to.dilation);
  take_pair("outs", outs, 0, to.outs);
  const Tensor given = torch::stable::contiguous(x);
  const int64_t places = x.size(0) * outs[0] * outs[1];
  const int64_t row = kernel[0] * kernel[1] * (x.size(3) / groups);
  Tensor out = torch::stable::new_empty(x, Shape{groups, places, row}, x.scalar_type());
  if (out.numel() == 0) return out;
  run(given, {static_cast<const uint8_t*>(given.const_data_ptr()),
              static_cast<uint8_t*>(out.mutable_data_ptr()),
              static_cast<int>(fill & 255),
              to,
              {x.size(1), x.size(2)},
              x.size(3),
              groups,
              places});
  return out;
}

}  // namespace fxmem
