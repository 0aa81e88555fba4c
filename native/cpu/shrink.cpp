#include "../shrink.h"

namespace {

using namespace fxmem;

constexpr int64_t kElements = 1 << 13;  // for which a thread is worth waking

void run(const Tensor& /*on*/, const ShrinkTask& task, bool back) {
  const int64_t grain = kElements / std::max<int64_t>(task.rounds * task.width, 1) + 1;
  torch::stable::parallel_for(0, task.words, grain, [&](int64_t first, int64_t last) {
    for (int64_t word = first; word < last; ++word)
      back ? unshrink_word(task, word) : shrink_word(task, word);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) {
  m.impl("shrink", TORCH_BOX(&shrink<run>));
  m.impl("unshrink", TORCH_BOX(&unshrink<run>));
}
