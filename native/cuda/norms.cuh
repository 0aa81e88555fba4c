// What a norm's backward on CUDA has by channel, and x_hat of an element.
#pragma once

#include "../norms.h"
#include "elements.cuh"
#include "launch.h"

namespace fxmem {

// x_hat = (y - shift) * inverse, or side[:, slot] where slot is not -1.
template <typename R>
struct NormChannels {
  R *weight, *shift, *inverse;
  int64_t* slot;
};

template <typename T>
struct NormTask {
  const T *grad, *y, *side;
  const Sum<T>* rstd;
  T* out;
  NormChannels<Sum<T>> of;
  NormSizes sizes;
  int64_t places;
  bool centred;
};

template <typename R>
__global__ void channels_kernel(NormChannels<R> to, const R* weight, const R* bias, int64_t count,
                                R least, R steepest) {
  for (int64_t c = this_thread(); c < count; c += all_threads()) {
    const R w = weight != nullptr ? weight[c] : R{1}, b = bias != nullptr ? bias[c] : R{0};
    const R size = ::fabs(w);
    to.weight[c] = w;
    to.shift[c] = b;
    to.inverse[c] = 1 / (size < least || size * steepest < ::fabs(b) ? R{1} : w);
    to.slot[c] = -1;
  }
}

template <typename R>
__global__ void places_kernel(NormChannels<R> to, const int64_t* at, int64_t places,
                              int64_t count) {
  for (int64_t k = this_thread(); k < places; k += all_threads()) {
    if (at[k] >= 0 && at[k] < count) to.slot[at[k]] = k;
  }
}

// Of element s of channel c in row n of outer.
template <typename T>
__device__ inline Sum<T> x_hat_at(const NormTask<T>& task, int64_t n, int64_t c, int64_t s) {
  const NormSizes& z = task.sizes;
  const int64_t slot = task.of.slot[c];
  if (slot >= 0) return to_sum(task.side[(n * task.places + slot) * z.span + s]);
  const Sum<T> y = to_sum(task.y[(n * z.channels() + c) * z.span + s]);
  return (y - task.of.shift[c]) * task.of.inverse[c];
}

template <typename R>
const R* data(const std::optional<Tensor>& x) {
  return x ? static_cast<const R*>(x->const_data_ptr()) : nullptr;
}

template <typename R>
constexpr int64_t kBytesByChannel = sizeof(int64_t) + 3 * sizeof(R);

// Filled in, in `memory` of so many bytes a channel.
template <typename R>
NormChannels<R> channels_in(const Tensor& memory, const NormBackward& of, NormLimits limits) {
  const int64_t count = of.sizes.channels(), places = of.at ? of.at->numel() : 0;
  auto* slots = static_cast<int64_t*>(memory.mutable_data_ptr());
  auto* numbers = reinterpret_cast<R*>(slots + count);
  const NormChannels<R> to{numbers, numbers + count, numbers + 2 * count, slots};
  launch(of.output, count, &channels_kernel<R>, to, data<R>(of.weight), data<R>(of.bias), count,
         static_cast<R>(limits.least), static_cast<R>(limits.steepest));
  launch(of.output, places, &places_kernel<R>, to, data<int64_t>(of.at), places, count);
  return to;
}

}  // namespace fxmem
