// Where a product of signs goes: on a processor, on CUDA and in the test of CUDA's tiles.
#pragma once

#include <cstdint>

namespace fxmem {

struct XnorOutput {
  int32_t* sums;  // of a's rows by b's; null with `values`
  float* values;  // the sums times a scale a row of a and one a row of b
  const float *left, *right;
  int64_t left_step, right_step;  // from a scale to the next: 0 where there is one for all
};

}  // namespace fxmem
