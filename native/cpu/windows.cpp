#include "../windows.h"

#include <cstring>

#include "kernels.h"

namespace {

using namespace fxmem;

constexpr int64_t kBytes = 1 << 15;  // for which a thread is worth waking

// Neighbours in a window are neighbours in x: one copy between two fillings.
void copy_run(const WindowTask& task, const uint8_t* line, int64_t out, uint8_t* to) {
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
void copy_elements(const WindowTask& task, const uint8_t* line, int64_t out, uint8_t* to) {
  const int64_t part = task.part(), step = task.places * task.row();
  for (int64_t k = 0; k < task.to.kernel[1]; ++k) {
    const int64_t from = window_source(task, 1, out, k);
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
void copy_line(const WindowTask& task, int64_t line) {
  const int64_t wide = task.to.outs[1], image = line / task.to.outs[0];
  const bool runs = task.groups == 1 && task.to.dilation[1] == 1 && task.to.spread[1] == 1;
  const int64_t bytes = task.size[1] * task.channels, run = task.to.kernel[1] * task.part();
  for (int64_t k = 0; k < task.to.kernel[0]; ++k) {
    const int64_t from = window_source(task, 0, line % task.to.outs[0], k);
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

void run(const Tensor& x, const WindowTask& task) {
  const int64_t line = task.to.outs[1] * task.row() * task.groups;
  const int64_t grain = kBytes / std::max<int64_t>(line, 1) + 1;
  const int64_t lines = x.size(0) * task.to.outs[0];
  torch::stable::parallel_for(0, lines, grain, [&](int64_t first, int64_t last) {
    for (int64_t at = first; at < last; ++at) copy_line(task, at);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) { m.impl("windows", TORCH_BOX(&windows<run>)); }
