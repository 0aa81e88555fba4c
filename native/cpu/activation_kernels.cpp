// Activations on the CPU: one pass over memory, a tile at a time. Compiled once per instruction
// set, into namespace FXMEM_ISA; nothing here may be shared by the linker.
#include "activation_curves.h"
#include "activation_lanes.h"
#include "activation_tiles.h"

namespace fxmem {
namespace {

template <typename T>
Curve<Scalar<T>> curve_of(const Function& function) {
  if constexpr (std::is_same_v<T, double>)
    return float64_curve(function.name);
  else if constexpr (std::is_same_v<T, float>)
    return FXMEM_ISA::float32_curve(function.name);
  else
    return FXMEM_ISA::float16_curve(function.name);
}

// call(first element, number of elements) for each of the tiles.
template <typename Call>
void for_tiles(int64_t first, int64_t last, int64_t n, const Call& call) {
  for (int64_t at = first * kTile; at < n && at < last * kTile; at += kTile)
    call(at, static_cast<int>(n - at < kTile ? n - at : kTile));
}

template <typename T>
const T* elements(const void* of, int64_t at) {
  return static_cast<const T*>(of) + at;
}

// The codes of a tile, packed. x: the same elements as task.x, as scalars.
template <typename T>
void code_tile(const FewBitTask& task, const Curve<Scalar<T>>& curve, const Scalar<T>* x, int count,
               int64_t at) {
  using S = Scalar<T>;
  alignas(64) uint8_t codes[kTile];
  alignas(64) Buffer<S> made;
  if (task.seed != nullptr) {
    curve.slope(x, made, count, task.function->parameters);
    draw_tile(made, count, numbers(*task.levels, S{}), numbers(*task.borders, S{}), task.bits,
              static_cast<uint64_t>(*task.seed), at, codes);
  } else if (task.borders == nullptr) {
    curve.code(x, codes, count, task.function->parameters);
  } else {
    for (int i = 0; i < count; ++i) made[i] = task.even && x[i] < 0 ? -x[i] : x[i];
    classify_tile(made, count, numbers(*task.borders, S{}), task.bits, codes);
  }
  pack_tile(codes, count, task.bits, at, task.codes);
}

// As code_tile; false if lanes do not do it.
template <typename T>
bool code_lanes(const FewBitTask& task, int count, int64_t at) {
  if constexpr (kHasLanes<T>) {
    return count == kTile && task.seed == nullptr && task.borders != nullptr &&
           classify_lanes(elements<T>(task.x, at), task.borders->narrow, task.bits, task.even,
                          task.codes + at / 8 * task.bits);
  }
  return false;
}

template <typename T>
void few_bit_tiles(const FewBitTask& task, int64_t first, int64_t last) {
  using S = Scalar<T>;
  const Curve<S> curve = task.function != nullptr ? curve_of<T>(*task.function) : Curve<S>{};
  alignas(64) Buffer<S> taken, made;
  for_tiles(first, last, task.n, [&](int64_t at, int count) {
    const bool coded = code_lanes<T>(task, count, at);
    if (coded && task.y == nullptr) return;
    const S* x = take<T>(task.x, at, count, taken);
    if (!coded) code_tile<T>(task, curve, x, count, at);
    if (task.y == nullptr) return;
    curve.value(x, place<T>(task.y, at, made), count, task.function->parameters);
    put<T>(made, count, task.y, at);
  });
}

template <typename T>
void look_up_tile(const LookupTask& task, int count, int64_t at) {
  using S = Scalar<T>;
  alignas(64) Buffer<S> taken, made;
  alignas(64) uint8_t codes[kTile];
  unpack_tile(task.codes, at, count, task.bits, codes);
  const S* levels = numbers(*task.levels, S{});
  S* out = place<T>(task.out, at, made);
  for (int i = 0; i < count; ++i) out[i] = levels[codes[i]];
  if (task.grad != nullptr) {
    const S* grad = take<T>(task.grad, at, count, taken);
    for (int i = 0; i < count; ++i) out[i] *= grad[i];
  }
  put<T>(made, count, task.out, at);
}

template <typename T>
void lookup_tiles(const LookupTask& task, int64_t first, int64_t last) {
  for_tiles(first, last, task.n, [&](int64_t at, int count) {
    if constexpr (kHasLanes<T>) {
      const T* grad = task.grad != nullptr ? elements<T>(task.grad, at) : nullptr;
      if (count == kTile &&
          look_up_lanes(task.codes + at / 8 * task.bits, task.bits, task.levels->narrow, grad,
                        static_cast<T*>(task.out) + at))
        return;
    }
    look_up_tile<T>(task, count, at);
  });
}

const LaneSegments* lane_segments(const FromOutputTask& task) {
  return task.branch != nullptr ? segments_of<LaneSegments>(task.function) : nullptr;
}

// The bits of a tile's branches, packed.
template <typename T>
void branch_tile(const FromOutputTask& task, const Curve<Scalar<T>>& curve,
                 const LaneSegments* segments, const Scalar<T>* x, int count, int64_t at) {
  if constexpr (kHasLanes<T>) {
    if (segments != nullptr && count == kTile &&
        classify_lanes(elements<T>(task.in, at), &segments->turn, 1, false, task.branch + at / 8))
      return;
  }
  alignas(64) uint8_t branch[kTile];
  curve.branch(x, branch, count, task.function.parameters);
  pack_tile(branch, count, 1, at, task.branch);
}

template <typename T>
void output_tiles(const FromOutputTask& task, int64_t first, int64_t last) {
  using S = Scalar<T>;
  const Curve<S> curve = curve_of<T>(task.function);
  const LaneSegments* segments = lane_segments(task);
  alignas(64) Buffer<S> taken, made;
  for_tiles(first, last, task.n, [&](int64_t at, int count) {
    const S* x = take<T>(task.in, at, count, taken);
    if (task.branch != nullptr) branch_tile<T>(task, curve, segments, x, count, at);
    curve.value(x, place<T>(task.out, at, made), count, task.function.parameters);
    put<T>(made, count, task.out, at);
  });
}

template <typename T>
void slope_tile(const FromOutputTask& task, const Curve<Scalar<T>>& curve, int count, int64_t at) {
  using S = Scalar<T>;
  alignas(64) Buffer<S> taken, grad_taken, made;
  alignas(64) uint8_t branch[kTile];
  if (task.branch != nullptr) unpack_tile(task.branch, at, count, 1, branch);
  S* out = place<T>(task.out, at, made);
  const S* y = take<T>(task.in, at, count, taken);
  curve.slope_from_output(y, branch, out, count, task.function.parameters);
  const S* grad = take<T>(task.grad, at, count, grad_taken);
  for (int i = 0; i < count; ++i) out[i] *= grad[i];
  put<T>(made, count, task.out, at);
}

template <typename T>
void output_backward_tiles(const FromOutputTask& task, int64_t first, int64_t last) {
  const Curve<Scalar<T>> curve = curve_of<T>(task.function);
  const LaneSegments* segments = lane_segments(task);
  for_tiles(first, last, task.n, [&](int64_t at, int count) {
    if constexpr (kHasLanes<T>) {
      if (count == kTile && slope_lanes(segments, elements<T>(task.in, at), task.branch + at / 8,
                                        elements<T>(task.grad, at), static_cast<T*>(task.out) + at))
        return;
    }
    slope_tile<T>(task, curve, count, at);
  });
}

template <typename T>
void gated_tiles(const GatedTask& task, int64_t first, int64_t last) {
  using S = Scalar<T>;
  const Curve<S> curve = curve_of<T>(task.function);
  const double* parameters = task.function.parameters;
  alignas(64) Buffer<S> taken[3], made[2];
  for_tiles(first, last, task.n, [&](int64_t at, int count) {
    const S* gate = take<T>(task.gate, at, count, taken[0]);
    const S* up = take<T>(task.up, at, count, taken[1]);
    S* out = place<T>(task.out, at, made[0]);
    if (task.grad == nullptr) {
      curve.gated(gate, up, out, count, parameters);
    } else {
      const S* grad = take<T>(task.grad, at, count, taken[2]);
      S* up_grad = place<T>(task.up_grad, at, made[1]);
      curve.gated_backward(grad, gate, up, out, up_grad, count, parameters);
      put<T>(made[1], count, task.up_grad, at);
    }
    put<T>(made[0], count, task.out, at);
  });
}

}  // namespace

namespace FXMEM_ISA {

void few_bit(const FewBitTask& task, Element element, int64_t first, int64_t last) {
  with_element<true>(element, [&](auto x) { few_bit_tiles<decltype(x)>(task, first, last); });
}

void lookup(const LookupTask& task, Element element, int64_t first, int64_t last) {
  with_element<true>(element, [&](auto x) { lookup_tiles<decltype(x)>(task, first, last); });
}

void from_output(const FromOutputTask& task, Element element, int64_t first, int64_t last) {
  with_element<true>(element, [&](auto x) {
    if (task.grad == nullptr) return output_tiles<decltype(x)>(task, first, last);
    output_backward_tiles<decltype(x)>(task, first, last);
  });
}

void gated(const GatedTask& task, Element element, int64_t first, int64_t last) {
  with_element<true>(element, [&](auto x) { gated_tiles<decltype(x)>(task, first, last); });
}

}  // namespace FXMEM_ISA
}  // namespace fxmem
