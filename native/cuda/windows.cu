// A convolution's windows on CUDA: a thread copies as many channels of a place as fit one access.
#include "../windows.h"

#include "elements.cuh"
#include "launch.h"

namespace {

using namespace fxmem;

template <typename Word>
__global__ void windows_kernel(WindowTask task, Word filling, int64_t count) {
  const int64_t words = task.part() / sizeof(Word);
  const auto* x = reinterpret_cast<const Word*>(task.x);
  auto* out = reinterpret_cast<Word*>(task.out);
  for (int64_t i = this_thread(); i < count; i += all_threads()) {
    const int64_t element = i / words, window = element / task.to.kernel[1] / task.to.kernel[0];
    const int64_t place = window % task.places, line = place / task.to.outs[1];
    const int64_t down = element / task.to.kernel[1] % task.to.kernel[0];
    const int64_t row = window_source(task, 0, line % task.to.outs[0], down);
    const int64_t column =
        window_source(task, 1, place % task.to.outs[1], element % task.to.kernel[1]);
    const int64_t image = line / task.to.outs[0];
    const int64_t from = (image * task.size[0] + row) * task.size[1] + column;
    const int64_t first = (from * task.groups + window / task.places) * words;
    out[i] = row < 0 || column < 0 ? filling : x[first + i % words];
  }
}

template <typename Word>
void run_as(const Tensor& x, const WindowTask& task) {
  Word filling;
  memset(&filling, task.fill, sizeof(Word));
  const int64_t count = task.groups * task.places * task.row() / sizeof(Word);
  launch(x, count, &windows_kernel<Word>, task, filling, count);
}

void run(const Tensor& x, const WindowTask& task) {
  const auto fits = [&](int bytes) {
    return task.part() % bytes == 0 && is_aligned(task.x, bytes);
  };
  if (fits(sizeof(uint4))) return run_as<uint4>(x, task);
  if (fits(sizeof(uint32_t))) return run_as<uint32_t>(x, task);
  run_as<uint8_t>(x, task);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) { m.impl("windows", TORCH_BOX(&windows<run>)); }
