// Reversible multiplication by a fraction on CUDA: a thread has a number, neighbours read
// neighbours.
#include "../shrink.h"

#include "launch.h"

namespace {

using namespace fxmem;

template <bool kBack>
__global__ void shrink_kernel(ShrinkTask task) {
  for (int64_t word = this_thread(); word < task.words; word += all_threads()) {
    if constexpr (kBack) {
      unshrink_word(task, word);
    } else {
      shrink_word(task, word);
    }
  }
}

void run(const Tensor& on, const ShrinkTask& task, bool back) {
  launch(on, task.words, back ? &shrink_kernel<true> : &shrink_kernel<false>, task);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) {
  m.impl("shrink", TORCH_BOX(&shrink<run>));
  m.impl("unshrink", TORCH_BOX(&unshrink<run>));
}
