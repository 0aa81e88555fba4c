// Every launch goes through here: the tensor's device, torch's current stream, and the launch
// check.
#pragma once

#include <cuda_runtime.h>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "../tensors.h"

namespace fxmem {

constexpr int kThreads = 256;

// Of all threads of a launch, which one this is, and how many there are.
__device__ inline int64_t this_thread() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ inline int64_t all_threads() { return static_cast<int64_t>(gridDim.x) * kThreads; }

// Runs kernel(arguments...) with enough blocks for `threads` threads; kernels loop over what is
// left.
template <typename... Parameters, typename... Arguments>
void launch(const Tensor& on, int64_t threads, void (*kernel)(Parameters...),
            Arguments... arguments) {
  if (threads == 0) return;
  const int device = on.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  constexpr int64_t kMostBlocks = 1 << 20;
  const int64_t blocks = std::min((threads + kThreads - 1) / kThreads, kMostBlocks);
  kernel<<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      arguments...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace fxmem
