#include "../norms.h"

#include "kernels.h"

namespace {

using namespace fxmem;

constexpr int64_t kElements = 1 << 16;  // for which a thread is worth waking
constexpr int64_t kMostParts = 64;      // whose sums are apart: as many for any number of threads

Element element(ScalarType dtype) {
  if (dtype == ScalarType::Float) return kFloat32;
  if (dtype == ScalarType::BFloat16) return kBFloat16;
  return dtype == ScalarType::Half ? kFloat16 : kFloat64;
}

const void* data(const std::optional<Tensor>& x) { return x ? x->const_data_ptr() : nullptr; }

std::vector<NormPlace> places_of(const NormBackward& to) {
  std::vector<NormPlace> places;
  const auto* at = static_cast<const int64_t*>(data(to.at));
  const int64_t channels = to.sizes.channels(), count = to.at ? to.at->numel() : 0;
  for (int64_t slot = 0; slot < count; ++slot) {
    check(at[slot] >= 0 && at[slot] < channels, "fxmem::norm_backward: at must be 0 to ",
          channels - 1, "; got ", at[slot]);
    places.push_back({at[slot], slot});
  }
  std::sort(places.begin(), places.end(),
            [](const NormPlace& a, const NormPlace& b) { return a.channel < b.channel; });
  return places;
}

// What the kernels have by channel, and their sums, in one allocation.
template <typename R>
class Channels {
 public:
  Channels(const NormBackward& to, int64_t pitch, int64_t parts)
      : to_(to), pitch_(pitch), size_(to.sizes.groups * pitch) {
    memory_ = torch::stable::new_empty(to.output, Shape{(3 + 2 * parts) * size_}, to.wide);
    at_ = static_cast<R*>(memory_.mutable_data_ptr());
  }

  R* weight() { return at_; }
  R* shift() { return at_ + size_; }
  R* inverse() { return at_ + 2 * size_; }
  R* sums() { return at_ + 3 * size_; }

  void fill(const std::vector<NormPlace>& places, NormLimits limits) {
    std::fill(at_, at_ + 3 * size_, R{0});
    spread(to_.weight, R{1}, weight());
    spread(to_.bias, R{0}, shift());
    const R least = static_cast<R>(limits.least), steepest = static_cast<R>(limits.steepest);
    const R *weights = weight(), *shifts = shift();
    R* inverses = inverse();
    for (int64_t at = 0; at < size_; ++at) {
      const R size = std::fabs(weights[at]), far = std::fabs(shifts[at]);
      inverses[at] = 1 / ((size < least) | (size * steepest < far) ? R{1} : weights[at]);
    }
    for (const NormPlace& place : places) {
      const int64_t d = place.channel % to_.sizes.depth;
      const int64_t at = place.channel / to_.sizes.depth * pitch_ + d;
      shift()[at] = 0;
      inverse()[at] = 1;
    }
  }

  // The sums of all parts, `kind` 0 of the weight, 1 of the bias.
  void total(int64_t parts, int kind, const Tensor& out) {
    if (out.numel() == 0) return;
    std::vector<double> total(size_);
    for (int64_t p = 0; p < parts; ++p) {
      const R* part = sums() + (2 * p + kind) * size_;
      for (int64_t at = 0; at < size_; ++at) total[at] += part[at];
    }
    auto* to = static_cast<R*>(out.mutable_data_ptr());
    for_groups([&](int64_t c, int64_t at) {
      for (int64_t d = 0; d < to_.sizes.depth; ++d) to[c + d] = static_cast<R>(total[at + d]);
    });
  }

 private:
  // call(first channel, where it is)
  template <typename Call>
  void for_groups(const Call& call) const {
    for (int64_t g = 0; g < to_.sizes.groups; ++g) call(g * to_.sizes.depth, g * pitch_);
  }

  void spread(const std::optional<Tensor>& given, R otherwise, R* to) {
    const auto* from = static_cast<const R*>(data(given));
    for_groups([&](int64_t c, int64_t at) {
      for (int64_t d = 0; d < to_.sizes.depth; ++d)
        to[at + d] = from != nullptr ? from[c + d] : otherwise;
    });
  }

  const NormBackward& to_;
  int64_t pitch_, size_;
  Tensor memory_;
  R* at_;
};

// From a group's channels to the next ones. Five lines more than they take: arrays whose distance
// is a power of two evict each other from a cache.
int64_t pitch_of(const NormSizes& sizes) {
  return (ceil_div(sizes.depth, kNormVector) + 5) * kNormVector;
}

// How many of outer share their sums: whole fours, and enough to be worth it.
int64_t step_of(const NormSizes& sizes) {
  const int64_t row = sizes.depth * sizes.span;
  const int64_t least = std::max(ceil_div(sizes.outer, kMostParts), ceil_div(kElements, row));
  return ceil_div(least, 4) * 4;
}

template <typename R>
void run_as(const NormBackward& to, NormLimits limits, bool centred, bool wants_sums) {
  const NormSizes& s = to.sizes;
  const int64_t pitch = pitch_of(s), step = step_of(s);
  const int64_t parts = ceil_div(s.outer, step);
  const std::vector<NormPlace> places = places_of(to);
  Channels<R> channels(to, pitch, wants_sums ? parts : 0);
  channels.fill(places, limits);
  const NormTask task{to.grad.const_data_ptr(),
                      to.output.const_data_ptr(),
                      data(to.side),
                      to.rstd.const_data_ptr(),
                      to.input_grad.mutable_data_ptr(),
                      channels.weight(),
                      channels.shift(),
                      channels.inverse(),
                      wants_sums ? channels.sums() : nullptr,
                      places.data(),
                      s.outer,
                      s.groups,
                      s.depth,
                      s.span,
                      static_cast<int64_t>(places.size()),
                      pitch,
                      step,
                      centred};
  const Element type = element(to.output.scalar_type());
  const int64_t grain = kElements / (std::min(step, s.outer) * s.depth * s.span) + 1;
  torch::stable::parallel_for(0, parts * s.groups, grain, [&](int64_t first, int64_t last) {
    kernels().norm_backward(task, type, first, last);
  });
  channels.total(parts, 0, to.weight_grad);
  channels.total(parts, 1, to.bias_grad);
}

void run(NormBackward& to, NormLimits limits, bool centred, bool sums) {
  const auto run = to.wide == ScalarType::Double ? &run_as<double> : &run_as<float>;
  run(to, limits, centred, sums);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) {
  m.impl("norm_backward", TORCH_BOX(&norm_backward<run>));
}
