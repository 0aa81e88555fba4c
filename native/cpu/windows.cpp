#include "../windows.h"

#include <cstring>

#include "kernels.h"

namespace {

using namespace fxmem;

constexpr int64_t kBytes = 1 << 15;  // for which a thread is worth waking

struct Task {
  const uint8_t* x;
  uint8_t* out;
  int fill;
  Windows to;
  int64_t size[2], channels, groups, places;

  int64_t part() const { return channels / groups; }
  int64_t row() const { return to.kernel[0] * to.kernel[1] * part(); }
};

// The place in x that a window's element reads along a dimension; below 0 where there is none.
int64_t source(const Task& task, int d, int64_t out, int64_t k) {
  const int64_t at = out * task.to.stride[d] + k * task.to.dilation[d] - task.to.before[d];
  if (at < 0 || at % task.to.spread[d] != 0) return -1;
  const int64_t place = at / task.to.spread[d];
  return place < task.size[d] ? place : -1;
}

// Neighbours in a window are neighbours in x: one copy between two fillings.
void copy_run(const Task& task, const uint8_t* line, int64_t out, uint8_t* to) {
  const int64_t wide = task.to.kernel[1], left = out * task.to.stride[1] - task.to.before[1];
  const int64_t first = std::clamp<int64_t>(-left, 0, wide);
  const int64_t last = std::clamp<int64_t>(task.size[1] - left, first, wide);
  memset(to, task.fill, first * task.channels);
  if (last > first)
    memcpy(to + first * task.channels, line + (left + first) * task.channels,
           (last - first) * task.channels);
  memset(to + last * task.channels, task.fill, (wide - last) * task.channels);
}

// Each group's windows lie behind the former's.
void copy_elements(const Task& task, const uint8_t* line, int64_t out, uint8_t* to) {
  const int64_t part = task.part(), step = task.places * task.row();
  for (int64_t k = 0; k < task.to.kernel[1]; ++k) {
    const int64_t from = source(task, 1, out, k);
    for (int64_t g = 0; g < task.groups; ++g) {
      uint8_t* at = to + g * step + k * part;
      if (from < 0) {
        memset(at, task.fill, part);
      } else {
        memcpy(at, line + from * task.channels + g * part, part);
      }
    }
  }
}

// The windows of a line of outputs.
void copy_line(const Task& task, int64_t line) {
  const int64_t wide = task.to.outs[1], image = line / task.to.outs[0];
  const bool runs = task.groups == 1 && task.to.dilation[1] == 1 && task.to.spread[1] == 1;
  const int64_t bytes = task.size[1] * task.channels, run = task.to.kernel[1] * task.part();
  for (int64_t k = 0; k < task.to.kernel[0]; ++k) {
    const int64_t from = source(task, 0, line % task.to.outs[0], k);
    const uint8_t* x = task.x + (image * task.size[0] + from) * bytes;
    uint8_t* to = task.out + line * wide * task.row() + k * run;
    for (int64_t out = 0; out < wide; ++out, to += task.row()) {
      if (from < 0) {
        for (int64_t g = 0; g < task.groups; ++g)
          memset(to + g * task.places * task.row(), task.fill, run);
      } else if (runs) {
        copy_run(task, x, out, to);
      } else {
        copy_elements(task, x, out, to);
      }
    }
  }
}

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
  const Task task{static_cast<const uint8_t*>(given.const_data_ptr()),
                  static_cast<uint8_t*>(out.mutable_data_ptr()),
                  static_cast<int>(fill & 255),
                  to,
                  {x.size(1), x.size(2)},
                  x.size(3),
                  groups,
                  places};
  const int64_t grain = kBytes / std::max<int64_t>(outs[1] * row * groups, 1) + 1;
  torch::stable::parallel_for(0, x.size(0) * outs[0], grain, [&](int64_t first, int64_t last) {
    for (int64_t line = first; line < last; ++line) copy_line(task, line);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) { m.impl("windows", TORCH_BOX(&windows)); }
