#include "activation_segments.h"

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "activation_curves.h"

namespace fxmem {
namespace {

constexpr double kFar = 64.0, kFlat = 2e-7, kGood = 2e-6;
constexpr int kSamples = 50;

// A segmented slope in double, while it is made.
template <typename Segments>
class Maker {
  static constexpr int kTerms = Segments::kDegree + 1;

 public:
  explicit Maker(const Function& function)
      : curve_(float64_curve(function.name)), parameters_(function.parameters) {}

  std::optional<Segments> make() {
    if (curve_.branch == nullptr || curve_.slope_from_output == nullptr) return std::nullopt;
    turn_ = turn();
    lowest_ = at(curve_.value, turn_);
    top_ = kFar;
    while (top_ > 0 && std::abs(slope(top_, true) - 1) < kFlat) top_ -= 1.0 / 128;
    if (!(lowest_ < 0 && top_ > 0 && top_ < kFar)) return std::nullopt;
    const double left = std::sqrt(-lowest_ / 2), right = std::sqrt(top_ - lowest_);
    // Rounding must lead from neither of the tail's last segment and main's first to the other.
    constexpr double kApart = 1e-5;
    scale_ = (Segments::kAll - Segments::kTail) / (left + right);
    offset_ = Segments::kTail + kApart + left * scale_;
    tail_scale_ = (Segments::kTail - kApart) / left;
    double terms[kTerms][Segments::kAll];
    for (int segment = 0; segment < Segments::kAll; ++segment)
      if (!fit(segment, terms)) return std::nullopt;
    return rounded(terms);
  }

 private:
  double at(Curve<double>::Map map, double x) const {
    double result = 0;
    map(&x, &result, 1, parameters_);
    return result;
  }

  double slope(double y, bool on_right) const {
    double result = 0;
    const uint8_t branch = on_right ? 1 : 0;
    curve_.slope_from_output(&y, &branch, &result, 1, parameters_);
    return result;
  }

  // The last number without the branch bit.
  double turn() const {
    double low = -kFar, high = kFar;
    for (int i = 0; i < 64; ++i) {
      const double middle = (low + high) / 2;
      uint8_t on_right = 0;
      curve_.branch(&middle, &on_right, 1, parameters_);
      (on_right != 0 ? high : low) = middle;
    }
    return low;
  }

  // What is stored for the number `place` of a segment and a part of it; weight: by which the slope
  // is that times more.
  double stored(double place, double* weight) const {
    const bool tail = place < Segments::kTail;
    const double s = tail ? place / tail_scale_ : (place - offset_) / scale_;
    const double y = tail ? -s * s : lowest_ + s * s;
    *weight = tail ? -y : 1.0;
    return slope(y, !tail && s > 0) / (tail ? y : 1.0);
  }

  // Interpolates; false if that errs too much. The first place of the tail is where y is 0.
  bool fit(int segment, double (*terms)[Segments::kAll]) const {
    const bool first = segment == 0;
    double nodes[kTerms], differences[kTerms], weight = 0;
    for (int i = 0; i < kTerms; ++i) {
      nodes[i] = (1 - std::cos(M_PI * (i + 0.5) / kTerms)) / 2;
      if (first) nodes[i] = std::sqrt(nodes[i]);
      differences[i] = stored(segment + nodes[i], &weight);
    }
    for (int order = 1; order < kTerms; ++order)
      for (int i = kTerms - 1; i >= order; --i)
        differences[i] = (differences[i] - differences[i - 1]) / (nodes[i] - nodes[i - order]);
    // From Newton's form to powers.
    double powers[kTerms] = {};
    for (int i = kTerms - 1; i >= 0; --i) {
      for (int k = kTerms - 1; k > 0; --k) powers[k] = powers[k - 1] - nodes[i] * powers[k];
      powers[0] = differences[i] - nodes[i] * powers[0];
    }
    for (int k = 0; k < kTerms; ++k) terms[k][segment] = powers[k];
    return errs_little(segment, powers);
  }

  bool errs_little(int segment, const double* powers) const {
    for (int i = 1; i < kSamples; ++i) {
      const double part = static_cast<double>(i) / kSamples;
      double weight = 0, sum = 0;
      const double wanted = stored(segment + part, &weight);
      for (int k = kTerms - 1; k >= 0; --k) sum = sum * part + powers[k];
      if (!(std::abs(sum - wanted) * weight < kGood)) return false;
    }
    return true;
  }

  Segments rounded(const double (*terms)[Segments::kAll]) const {
    Segments made;
    made.turn = rounded_down(turn_);
    made.lowest = static_cast<float>(lowest_);
    made.lowest_rest = static_cast<float>(lowest_ - made.lowest);
    made.start = static_cast<float>(lowest_ / 2);
    made.top = static_cast<float>(top_);
    made.stretch = static_cast<float>(-(tail_scale_ / scale_) * (tail_scale_ / scale_));
    made.scale = static_cast<float>(scale_);
    made.offset = static_cast<float>(offset_);
    for (int k = 0; k < kTerms; ++k)
      for (int i = 0; i < Segments::kAll; ++i) made.terms[k][i] = static_cast<float>(terms[k][i]);
    return made;
  }

  Curve<double> curve_;
  const double* parameters_;
  double turn_ = 0, lowest_ = 0, top_ = 0, scale_ = 0, offset_ = 0, tail_scale_ = 0;
};

}  // namespace

template <typename Segments>
const Segments* segments_of(const Function& function) {
  static std::mutex mutex;
  static std::map<std::string, std::optional<Segments>> found;
  if (function.parameter_count != 0) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [place, is_new] = found.try_emplace(function.name);
  if (is_new) place->second = Maker<Segments>(function).make();
  return place->second ? &*place->second : nullptr;
}

template const Segments<3, 8, 9>* segments_of(const Function& function);
template const Segments<8, 32, 4>* segments_of(const Function& function);

}  // namespace fxmem
