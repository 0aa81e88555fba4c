// The functions that activations are made of, for generated/activations.h. On CUDA they are the
// platform's own; on the CPU GCC turns a loop over them into vector instructions.
#pragma once

#include "arithmetic.h"

// A real constant: as wide as R may be.
#ifdef __CUDACC__
#define FXMEM_REAL(digits) static_cast<R>(digits)
#else
#define FXMEM_REAL(digits) static_cast<R>(digits##L)
#endif

namespace fxmem {

template <typename R>
FXMEM_INLINE R select(bool condition, R yes, R no) {
  return condition ? yes : no;
}

}  // namespace fxmem

#ifdef __CUDACC__
#include "cuda/activation_functions.cuh"
#else
#include "cpu/activation_normal.h"
#endif
