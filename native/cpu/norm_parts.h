// Where the elements of a norm's part lie, and tiles of its rows. Included by norm_kernels.cpp
// only.
#pragma once

#include "activation_tiles.h"
#include "vectors.h"

namespace fxmem {
namespace {

template <typename R>
struct NormChannels {
  const R *weight, *shift, *inverse;
};

// One group of `step` of outer; what is by channel is counted from the group's first.
template <typename T>
struct NormPart {
  using R = Scalar<T>;
  const NormTask& task;
  int64_t group, first, last, place = 0;
  NormChannels<R> channels;
  R *of_weight = nullptr, *of_bias = nullptr;

  NormPart(const NormTask& of, int64_t index)
      : task(of), group(index % of.groups), first(index / of.groups * of.step) {
    last = task.outer - first < task.step ? task.outer : first + task.step;
    const int64_t at = group * task.pitch;
    channels = {numbers(task.weight) + at, numbers(task.shift) + at, numbers(task.inverse) + at};
    while (channel_of(place) < 0) ++place;
    if (task.sums != nullptr) clear_sums(at);
  }

  // Of a place; after the last there is none.
  int64_t channel_of(int64_t k) const {
    const int64_t none = task.groups * task.depth;
    return (k < task.place_count ? task.places[k].channel : none) - group * task.depth;
  }

  int64_t row(int64_t n) const { return (n * task.groups + group) * task.depth * task.span; }
  R rstd(int64_t n) const { return numbers(task.rstd)[n * task.groups + group]; }

  // Where in `side` the place k of n begins.
  int64_t side(int64_t n, int64_t k) const {
    return (n * task.place_count + task.places[k].slot) * task.span;
  }

 private:
  static const R* numbers(const void* x) { return static_cast<const R*>(x); }

  void clear_sums(int64_t at) {
    const int64_t size = task.groups * task.pitch;
    of_weight = static_cast<R*>(task.sums) + first / task.step * 2 * size + at;
    of_bias = of_weight + size;
    memset(of_weight, 0, task.pitch * sizeof(R));
    memset(of_bias, 0, task.pitch * sizeof(R));
  }
};

// Of a row's gradient times the weight: itself, and times x_hat.
template <typename R>
struct RowSums {
  double plain = 0, scaled = 0;

  // The gradient of an element is rstd * (grad * weight - mean - x_hat * slope).
  R mean(const NormTask& task) const { return task.centred ? over(task, plain) : R{0}; }
  R slope(const NormTask& task) const { return over(task, scaled); }

 private:
  static R over(const NormTask& task, double sum) {
    return static_cast<R>(sum / static_cast<double>(task.depth * task.span));
  }
};

constexpr int kNormColumns = 512;  // of a row that are worked on at a time

// The same columns of a few rows as scalars, filled up with 0 to whole vectors.
template <typename T, int kRows>
class NormTiles {
 public:
  using R = Scalar<T>;
  const R *grad[kRows], *y[kRows];

  // k: the first place at or after column c; then the first after these columns.
  void take(const NormPart<T>& part, int64_t n, int64_t c, int count, int64_t& k) {
    const int64_t begin = k;
    while (part.channel_of(k) < c + count) ++k;
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = part.row(n + r) + c;
      grad[r] = filled(part.task.grad, at, count, false, grads_[r]);
      y[r] = filled(part.task.y, at, count, k > begin, ys_[r]);
      for (int64_t j = begin; j < k; ++j) {
        const auto* side = static_cast<const T*>(part.task.side) + part.side(n + r, j);
        load_row(side, 1, &ys_[r][part.channel_of(j) - c]);
      }
    }
  }

 private:
  static const R* filled(const void* x, int64_t at, int count, bool copies, R* buffer) {
    const int whole = (count + kLanes<R> - 1) / kLanes<R> * kLanes<R>;
    if (kIsScalar<T> && whole == count && !copies) return static_cast<const R*>(x) + at;
    load_row(static_cast<const T*>(x) + at, count, buffer);
    for (int i = count; i < whole; ++i) buffer[i] = 0;
    return buffer;
  }

  alignas(64) R grads_[kRows][kNormColumns], ys_[kRows][kNormColumns];
};

}  // namespace
}  // namespace fxmem
