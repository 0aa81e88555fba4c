// The backward of a norm from its output on the CPU: the sums of a row, then its gradient while it
// is in a cache. Compiled once per instruction set, into namespace FXMEM_ISA.
#include "norm_parts.h"

namespace fxmem {
namespace {

template <typename R, int kRows>
struct Accumulators {
  Vector<R> plain[kRows] = {}, scaled[kRows] = {};
};

// Adds columns [c, c + count) of rows to their sums, and to those of weight and bias.
template <bool kSums, typename T, int kRows>
FXMEM_INLINE void add_columns(const NormPart<T>& part, const NormTiles<T, kRows>& tiles, int64_t c,
                              int count, Accumulators<Scalar<T>, kRows>& to) {
  using R = Scalar<T>;
  // Of its own, as are the pointers: else each store, which may be to anything, has them read
  // again.
  Accumulators<R, kRows> sums = to;
  const R *grads[kRows], *ys[kRows];
  memcpy(grads, tiles.grad, sizeof(grads));
  memcpy(ys, tiles.y, sizeof(ys));
  const NormChannels<R> channels = part.channels;
  R *of_weights = part.of_weight, *of_biases = part.of_bias;
  for (int i = 0; i < count; i += kLanes<R>) {
    const Vector<R> weight = vector(channels.weight + c + i);
    const Vector<R> shift = vector(channels.shift + c + i);
    const Vector<R> inverse = vector(channels.inverse + c + i);
    Vector<R> of_weight = {}, of_bias = {};
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Vector<R> grad = vector(grads[r] + i);
      const Vector<R> x_hat = (vector(ys[r] + i) - shift) * inverse;
      const Vector<R> scaled = grad * x_hat;
      of_weight += scaled;
      of_bias += grad;
      sums.plain[r] += grad * weight;
      sums.scaled[r] += scaled * weight;
    }
    if constexpr (kSums) {
      vector(of_weights + c + i) += of_weight;
      vector(of_biases + c + i) += of_bias;
    }
  }
  to = sums;
}

// call(column, number of columns) for the tiles of a row.
template <typename Call>
FXMEM_INLINE void for_columns(int64_t depth, const Call& call) {
  for (int64_t c = 0; c < depth; c += kNormColumns)
    call(c, static_cast<int>(depth - c < kNormColumns ? depth - c : kNormColumns));
}

template <typename T>
FXMEM_INLINE void put_columns(const NormPart<T>& part, const Scalar<T>* __restrict grad,
                              const Scalar<T>* __restrict y, int64_t n, int64_t c, int count,
                              RowSums<Scalar<T>> sums) {
  using R = Scalar<T>;
  const R rstd = part.rstd(n), mean = sums.mean(part.task), slope = sums.slope(part.task);
  const R* __restrict weight = part.channels.weight + c;
  const R* __restrict shift = part.channels.shift + c;
  const R* __restrict inverse = part.channels.inverse + c;
  alignas(64) R made[kNormColumns];
  R* __restrict out = place<T>(part.task.out, part.row(n) + c, made);
  for (int i = 0; i < count; ++i)
    out[i] = rstd * (grad[i] * weight[i] - mean - (y[i] - shift[i]) * inverse[i] * slope);
  put<T>(made, count, part.task.out, part.row(n) + c);
}

// kRows rows whose channels have one element each.
template <bool kSums, int kRows, typename T>
void do_rows(const NormPart<T>& part, int64_t n) {
  using R = Scalar<T>;
  NormTiles<T, kRows> tiles;
  Accumulators<R, kRows> found;
  int64_t k = part.place;
  for_columns(part.task.depth, [&](int64_t c, int count) {
    tiles.take(part, n, c, count, k);
    add_columns<kSums>(part, tiles, c, count, found);
  });
  RowSums<R> sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = {total<R>(found.plain[r]), total<R>(found.scaled[r])};
  k = part.place;
  for_columns(part.task.depth, [&](int64_t c, int count) {
    if (part.task.depth > kNormColumns) tiles.take(part, n, c, count, k);
    for (int r = 0; r < kRows; ++r)
      put_columns(part, tiles.grad[r], tiles.y[r], n + r, c, count, sums[r]);
  });
}

template <bool kSums, typename T>
void do_columns(const NormPart<T>& part) {
  constexpr int kRows = 4;  // each reads and writes the sums by channel
  int64_t n = part.first;
  for (; n + kRows <= part.last; n += kRows) do_rows<kSums, kRows>(part, n);
  for (; n < part.last; ++n) do_rows<kSums, 1>(part, n);
}

// A channel of several elements, and where its gradient and its output, or x_hat, begin.
template <typename T>
struct Span {
  using R = Scalar<T>;
  const T *grad, *y;
  R weight, shift, inverse;
};

template <typename T>
Span<T> span_at(const NormPart<T>& part, int64_t n, int64_t c, int64_t& k) {
  const NormTask& task = part.task;
  const int64_t at = part.row(n) + c * task.span;
  const bool kept = part.channel_of(k) == c;
  const T* y = kept ? static_cast<const T*>(task.side) + part.side(n, k++)
                    : static_cast<const T*>(task.y) + at;
  const auto& of = part.channels;
  return {static_cast<const T*>(task.grad) + at, y, of.weight[c], of.shift[c], of.inverse[c]};
}

// The sums of `count` gradients, alone and times x_hat.
template <typename R>
RowSums<R> tile_sums(const R* grad, const R* y, int count, R shift, R inverse) {
  constexpr int kAtOnce = 4;
  Vector<R> plain[kAtOnce] = {}, scaled[kAtOnce] = {};
  int i = 0;
  for (; i + kAtOnce * kLanes<R> <= count; i += kAtOnce * kLanes<R>) {
#pragma GCC unroll 4
    for (int v = 0; v < kAtOnce; ++v) {
      const Vector<R> g = vector(grad + i + v * kLanes<R>);
      plain[v] += g;
      scaled[v] += g * ((vector(y + i + v * kLanes<R>) - shift) * inverse);
    }
  }
  RowSums<R> sums{total<R>((plain[0] + plain[1]) + (plain[2] + plain[3])),
                  total<R>((scaled[0] + scaled[1]) + (scaled[2] + scaled[3]))};
  for (; i < count; ++i) {
    sums.plain += grad[i];
    sums.scaled += grad[i] * ((y[i] - shift) * inverse);
  }
  return sums;
}

// call(first element, gradients, outputs, count) for the tiles of a span, as scalars.
template <typename T, typename Call>
FXMEM_INLINE void for_span(const NormTask& task, const Span<T>& span, const Call& call) {
  alignas(64) Buffer<Scalar<T>> grads, ys;
  for (int64_t s = 0; s < task.span; s += kTile) {
    const int count = static_cast<int>(task.span - s < kTile ? task.span - s : kTile);
    call(s, take<T>(span.grad, s, count, grads), take<T>(span.y, s, count, ys), count);
  }
}

template <typename T>
RowSums<Scalar<T>> add_spans(const NormPart<T>& part, int64_t n) {
  using R = Scalar<T>;
  RowSums<R> row;
  int64_t k = part.place;
  for (int64_t c = 0; c < part.task.depth; ++c) {
    const Span<T> span = span_at(part, n, c, k);
    RowSums<R> sums;
    for_span(part.task, span, [&](int64_t, const R* grad, const R* y, int count) {
      const RowSums<R> more = tile_sums(grad, y, count, span.shift, span.inverse);
      sums.plain += more.plain;
      sums.scaled += more.scaled;
    });
    row.plain += sums.plain * span.weight;
    row.scaled += sums.scaled * span.weight;
    if (part.of_weight == nullptr) continue;
    part.of_weight[c] += static_cast<R>(sums.scaled);
    part.of_bias[c] += static_cast<R>(sums.plain);
  }
  return row;
}

template <typename T>
void put_spans(const NormPart<T>& part, int64_t n, RowSums<Scalar<T>> sums) {
  using R = Scalar<T>;
  const R rstd = part.rstd(n), mean = sums.mean(part.task), slope = sums.slope(part.task);
  int64_t k = part.place;
  for (int64_t c = 0; c < part.task.depth; ++c) {
    const Span<T> span = span_at(part, n, c, k);
    const int64_t at = part.row(n) + c * part.task.span;
    for_span(part.task, span, [&](int64_t s, const R* grad, const R* y, int count) {
      alignas(64) Buffer<R> made;
      R* __restrict out = place<T>(part.task.out, at + s, made);
      for (int i = 0; i < count; ++i)
        out[i] = rstd * (grad[i] * span.weight - mean - (y[i] - span.shift) * span.inverse * slope);
      put<T>(made, count, part.task.out, at + s);
    });
  }
}

template <typename T>
void do_parts(const NormTask& task, int64_t first, int64_t last) {
  for (int64_t i = first; i < last; ++i) {
    const NormPart<T> part(task, i);
    if (task.span == 1 && task.sums != nullptr) {
      do_columns<true>(part);
    } else if (task.span == 1) {
      do_columns<false>(part);
    } else {
      for (int64_t n = part.first; n < part.last; ++n) put_spans(part, n, add_spans(part, n));
    }
  }
}

}  // namespace

namespace FXMEM_ISA {

void norm_backward(const NormTask& task, Element element, int64_t first, int64_t last) {
  if (element == kFloat32) return do_parts<float>(task, first, last);
  if (element == kBFloat16) return do_parts<BFloat16>(task, first, last);
  if (element == kFloat16) return do_parts<Float16>(task, first, last);
  do_parts<double>(task, first, last);
}

}  // namespace FXMEM_ISA
}  // namespace fxmem
