// Integers times a fraction n / d below one, undone bit for bit by what the product lost, which
// goes into numbers that elements share: fxmem/ops/shrinking/operators.py has the arithmetic and
// its source.
#pragma once

#include "bits.h"
#include "codec.h"

namespace fxmem {

constexpr int kSpill = 16;                  // bits of a word that a number spills
constexpr uint64_t kLargest = 1ULL << 62;   // bound of a number
constexpr int64_t kWidestPush = 1LL << 40;  // d ** width
constexpr int64_t kMostPushes = 64;         // into a number by a multiplication
constexpr int64_t kSpillOffset = 1 << (kSpill - 1);

// Division by what is known before the elements are: a product, and a step if that falls short.
struct Divisor {
  uint64_t by, reciprocal;
};

inline Divisor divisor(uint64_t by) { return {by, ~0ULL / by}; }

FXMEM_INLINE uint64_t high_product(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

FXMEM_INLINE uint64_t quotient(uint64_t x, const Divisor& divisor) {
  const uint64_t near = high_product(x, divisor.reciprocal);  // the quotient, or one less
  return near + (x - near * divisor.by >= divisor.by ? 1 : 0);
}

FXMEM_INLINE int64_t floored(int64_t x, const Divisor& divisor) {
  const int64_t sign = x >> 63;
  return static_cast<int64_t>(quotient(static_cast<uint64_t>(x ^ sign), divisor)) ^ sign;
}

// A base, and what as many digits as a push has count to.
struct Base {
  Divisor one, all;
};

struct ShrinkTask {
  const int64_t *v, *numbers;
  int64_t *out, *numbers_out;
  int16_t* spilled;
  const int16_t* kept;  // what spilled, on the way back
  Base n, d;
  int64_t rounds, width, words;
  uint8_t spills[kMostPushes];  // words before each push
};

// Pushes v mod `taken` of a push's elements, and fills v / taken * given up with digits popped.
FXMEM_INLINE uint64_t exchanged(const ShrinkTask& task, int64_t at, uint64_t number,
                                const Base& taken, const Base& given) {
  uint64_t pushed = 0, power = 1;
  for (int64_t i = 0, j = at; i < task.width; ++i, j += task.words) {
    const int64_t whole = floored(task.v[j], taken.one);
    pushed +=
        (static_cast<uint64_t>(task.v[j]) - static_cast<uint64_t>(whole) * taken.one.by) * power;
    power *= taken.one.by;
    task.out[j] = whole;
  }
  number = number * taken.all.by + pushed;
  const uint64_t left = quotient(number, given.all);
  uint64_t popped = number - left * given.all.by;
  for (int64_t i = 0, j = at; i < task.width; ++i, j += task.words) {
    const uint64_t rest = quotient(popped, given.one);
    const uint64_t whole = static_cast<uint64_t>(task.out[j]) * given.one.by;
    task.out[j] = static_cast<int64_t>(whole + popped - rest * given.one.by);
    popped = rest;
  }
  return left;
}

FXMEM_INLINE void shrink_word(const ShrinkTask& task, int64_t word) {
  auto number = static_cast<uint64_t>(task.numbers[word]);
  int16_t* spilled = task.spilled + word;
  for (int64_t r = 0; r < task.rounds; ++r) {
    for (int s = 0; s < task.spills[r]; ++s, spilled += task.words, number >>= kSpill) {
      const auto low = static_cast<int64_t>(number & ((1U << kSpill) - 1));
      *spilled = static_cast<int16_t>(low - kSpillOffset);
    }
    number = exchanged(task, r * task.width * task.words + word, number, task.d, task.n);
  }
  task.numbers_out[word] = static_cast<int64_t>(number);
}

FXMEM_INLINE void unshrink_word(const ShrinkTask& task, int64_t word) {
  auto number = static_cast<uint64_t>(task.numbers[word]);
  int64_t spills = 0;
  for (int64_t r = 0; r < task.rounds; ++r) spills += task.spills[r];
  for (int64_t r = task.rounds; r-- > 0;) {
    number = exchanged(task, r * task.width * task.words + word, number, task.n, task.d);
    for (int s = 0; s < task.spills[r]; ++s) {
      const int64_t low = task.kept[--spills * task.words + word] + kSpillOffset;
      number = number << kSpill | static_cast<uint64_t>(low);
    }
  }
  task.numbers_out[word] = static_cast<int64_t>(number);
}

// d ** width; that of n is less.
inline uint64_t raised(const char* op, int64_t base, int64_t width) {
  int64_t power = 1;
  for (int64_t i = 0; i < width; ++i) {
    check(power <= kWidestPush / base, "fxmem::", op, ": d ** width must be at most 2^40; got ",
          base, " ** ", width);
    power *= base;
  }
  return static_cast<uint64_t>(power);
}

// Fills in how many words each push spills before it; returns their number.
inline int64_t count_spills(ShrinkTask& task, uint64_t bound) {
  int64_t spills = 0;
  for (int64_t r = 0; r < task.rounds; ++r) {
    task.spills[r] = 0;
    for (; bound > kLargest / task.d.all.by; ++task.spills[r])
      bound = (bound + low_bits(kSpill)) >> kSpill;
    bound = (bound * task.d.all.by + task.n.all.by - 1) / task.n.all.by;
    spills += task.spills[r];
  }
  return spills;
}

struct Shrunk {
  ShrinkTask task;
  int64_t spills;
  Tensor v, numbers, out, numbers_out;  // what the task points at
};

inline Shrunk prepare_shrink(const char* op, const Tensor& v, const Tensor& numbers, int64_t n,
                             int64_t d, int64_t bound) {
  const Shape size(v.sizes().begin(), v.sizes().end());
  const bool pushes = size.size() == 3 && size[0] >= 1 && size[0] <= kMostPushes && size[1] >= 1;
  check(pushes && v.scalar_type() == ScalarType::Long, "fxmem::", op, ": v must be int64 [1 to ",
        kMostPushes, " rounds, width, words]; got ", words(size), " of ",
        torch::headeronly::toString(v.scalar_type()));
  const bool shared = numbers.dim() == 1 && numbers.scalar_type() == ScalarType::Long &&
                      numbers.size(0) == v.size(2);
  check(shared, "fxmem::", op, ": numbers must be int64 [", v.size(2), "]; got ",
        words(Shape(numbers.sizes().begin(), numbers.sizes().end())), " of ",
        torch::headeronly::toString(numbers.scalar_type()));
  check_same_device(op, "numbers", numbers, "v", v);
  check(1 <= n && n <= d, "fxmem::", op, ": n must be 1 to d, which is ", d, "; got ", n);
  check(1 <= bound && static_cast<uint64_t>(bound) <= kLargest, "fxmem::", op,
        ": bound must be 1 to 2^62; got ", bound);
  const auto base = [&](int64_t b) {
    return Base{divisor(static_cast<uint64_t>(b)), divisor(raised(op, b, v.size(1)))};
  };
  const Base pushed = base(d), popped = base(n);
  Shrunk to{{},
            0,
            torch::stable::contiguous(v),
            torch::stable::contiguous(numbers),
            torch::stable::new_empty(v, size),
            torch::stable::new_empty(numbers, Shape{v.size(2)})};
  to.task = {static_cast<const int64_t*>(to.v.const_data_ptr()),
             static_cast<const int64_t*>(to.numbers.const_data_ptr()),
             static_cast<int64_t*>(to.out.mutable_data_ptr()),
             static_cast<int64_t*>(to.numbers_out.mutable_data_ptr()),
             nullptr,
             nullptr,
             popped,
             pushed,
             v.size(0),
             v.size(1),
             v.size(2),
             {}};
  to.spills = count_spills(to.task, static_cast<uint64_t>(bound));
  return to;
}

inline std::optional<Tensor> check_spilled(const Shrunk& to, const std::optional<Tensor>& spilled) {
  const Shape wanted{to.spills, to.task.words};
  std::ostringstream got;
  bool fits = !spilled && count(wanted) == 0;
  if (spilled) {
    const Shape size(spilled->sizes().begin(), spilled->sizes().end());
    fits = size == wanted && spilled->scalar_type() == ScalarType::Short;
    got << words(size) << " of " << torch::headeronly::toString(spilled->scalar_type());
    check_same_device("unshrink", "spilled", *spilled, "v", to.v);
  } else {
    got << "None";
  }
  check(fits, "fxmem::unshrink: spilled must be int16 ", words(wanted), ", or None for none; got ",
        got.str());
  return spilled ? std::optional<Tensor>(torch::stable::contiguous(*spilled)) : std::nullopt;
}

// The operators, of a device whose kernel goes through the words.
using ShrinkRun = void (*)(const Tensor& on, const ShrinkTask& task, bool back);

template <ShrinkRun run>
std::tuple<Tensor, Tensor, Tensor> shrink(const Tensor& v, const Tensor& numbers, int64_t n,
                                          int64_t d, int64_t bound) {
  Shrunk to = prepare_shrink("shrink", v, numbers, n, d, bound);
  Tensor spilled = torch::stable::new_empty(v, Shape{to.spills, v.size(2)}, ScalarType::Short);
  to.task.spilled = static_cast<int16_t*>(spilled.mutable_data_ptr());
  run(v, to.task, false);
  return {to.out, to.numbers_out, spilled};
}

template <ShrinkRun run>
std::tuple<Tensor, Tensor> unshrink(const Tensor& v, const Tensor& numbers,
                                    const std::optional<Tensor>& spilled, int64_t n, int64_t d,
                                    int64_t bound) {
  Shrunk to = prepare_shrink("unshrink", v, numbers, n, d, bound);
  const std::optional<Tensor> kept = check_spilled(to, spilled);
  if (kept) to.task.kept = static_cast<const int16_t*>(kept->const_data_ptr());
  run(v, to.task, true);
  return {to.out, to.numbers_out};
}

}  // namespace fxmem
