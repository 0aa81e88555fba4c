// Few-bit activations on CUDA: codes of intervals or slopes, and their levels.
#include "activation_units.cuh"

namespace {

using namespace fxmem;

// Borders, or levels; as a kernel takes them.
template <typename R>
struct Table {
  R at[256];
  int count;
};

template <typename R>
R rounded_down(double border) {
  const R nearest = static_cast<R>(border);
  return nearest > border ? std::nextafter(nearest, -std::numeric_limits<R>::infinity()) : nearest;
}

template <typename R>
Table<R> border_table(const Numbers& borders) {
  Table<R> table;
  table.count = static_cast<int>(borders.size());
  for (int i = 0; i < 256; ++i)
    table.at[i] =
        i < table.count ? rounded_down<R>(borders[i]) : std::numeric_limits<R>::infinity();
  return table;
}

template <typename R>
Table<R> level_table(const Numbers& levels) {
  Table<R> table;
  table.count = static_cast<int>(levels.size());
  for (int i = 0; i < 256; ++i)
    table.at[i] = i < table.count ? static_cast<R>(levels[i]) : std::numeric_limits<R>::quiet_NaN();
  return table;
}

// What indices differ for each thread in lies in shared memory; constant memory would serialise.
template <typename R>
__device__ void share(const Table<R>& table, R* shared) {
  for (int i = threadIdx.x; i < 256; i += kThreads) shared[i] = table.at[i];
  __syncthreads();
}

// How many of the 2^bits - 1 ascending borders are below x.
template <typename R>
__device__ int rank(const R* borders, int bits, R x) {
  int code = 0;
  for (int half = 1 << (bits - 1); half > 0; half >>= 1)
    code += x > borders[code + half - 1] ? half : 0;
  return code;
}

template <typename R>
__device__ uint64_t rank_unit(const Unit<R>& x, const R* borders, int bits, bool even) {
  uint64_t word = 0;
#pragma unroll
  for (int v = 0; v < kUnit; ++v) {
    const R value = even && x.at[v] < 0 ? -x.at[v] : x.at[v];
    word |= static_cast<uint64_t>(rank(borders, bits, value)) << (bits * v);
  }
  return word;
}

// The lower or the upper of the two levels around the slope, so that the slope is expected. inner:
// the levels but for the outermost, as borders.
template <typename R>
__device__ int draw(R slope, const R* levels, const R* inner, int bits, float chance) {
  const int lower = rank(inner, bits, slope);
  return lower + (chance < (slope - levels[lower]) / (levels[lower + 1] - levels[lower]) ? 1 : 0);
}

enum class Coding { kBorders, kPieces, kDrawn };

struct Codes {
  uint8_t* to;
  const int64_t* seed;
  int bits;
  bool even;
  Coding coding;
};

template <typename F, typename R>
__device__ uint64_t code_unit(const Unit<R>& x, const Codes& codes, const Function<F, R>& f,
                              const R* table, const R* inner, int64_t first) {
  uint64_t word = 0;
  if (codes.coding == Coding::kBorders) {
    word = rank_unit(x, table, codes.bits, codes.even);
  } else if (codes.coding == Coding::kDrawn) {
    const Key key = make_key(static_cast<uint64_t>(*codes.seed), first);
    const Unit<R> slope = slopes(x, f);
#pragma unroll
    for (int v = 0; v < kUnit; ++v) {
      const float chance = uniform(key, static_cast<uint32_t>(first) + v);
      const int code = draw(slope.at[v], table, inner, codes.bits, chance);
      word |= static_cast<uint64_t>(code) << (codes.bits * v);
    }
  } else if constexpr (F::kStepwise) {
#pragma unroll
    for (int v = 0; v < kUnit; ++v)
      word |= static_cast<uint64_t>(F::code(x.at[v], f.p.at)) << (codes.bits * v);
  }
  return word;
}

template <typename F, typename R>
__global__ void few_bit_kernel(const void* x, void* y, Codes codes, int64_t n, Stored dtype,
                               Function<F, R> f, Table<R> table) {
  __shared__ R shared[256], inner[256];
  for (int i = threadIdx.x; i < 256; i += kThreads)
    inner[i] = i + 2 < table.count ? table.at[i + 1] : static_cast<R>(INFINITY);
  share(table, shared);
  for_units(n, [&](Span span) {
    const Unit<R> in = load_unit<R>(x, dtype, span);
    const uint64_t word = code_unit(in, codes, f, shared, inner, span.first);
    store_unit(values(in, f), y, dtype, span);
    store_codes(word, codes.to, codes.bits, span);
  });
}

template <typename R>
__global__ void classify_kernel(const void* x, Codes codes, int64_t n, Stored dtype,
                                Table<R> table) {
  __shared__ R shared[256];
  share(table, shared);
  for_units(n, [&](Span span) {
    const Unit<R> in = load_unit<R>(x, dtype, span);
    store_codes(rank_unit(in, shared, codes.bits, codes.even), codes.to, codes.bits, span);
  });
}

template <typename R>
__global__ void lookup_kernel(const void* grad, const uint8_t* codes, void* out, int bits,
                              int64_t n, Stored dtype, Table<R> table) {
  __shared__ R shared[256];
  share(table, shared);
  const int mask = (1 << bits) - 1;
  for_units(n, [&](Span span) {
    const uint64_t word = load_codes(codes, bits, span);
    Unit<R> result;
#pragma unroll
    for (int v = 0; v < kUnit; ++v)
      result.at[v] = shared[static_cast<int>(word >> (bits * v)) & mask];
    if (grad != nullptr) {
      const Unit<R> in = load_unit<R>(grad, dtype, span);
#pragma unroll
      for (int v = 0; v < kUnit; ++v) result.at[v] *= in.at[v];
    }
    store_unit(result, out, dtype, span);
  });
}

Tensor classify(const Tensor& x, Numbers borders, int64_t bits, bool even) {
  const Classified to = prepare_classify(x, borders, bits);
  const Codes codes{static_cast<uint8_t*>(to.codes.mutable_data_ptr()), nullptr,
                    static_cast<int>(bits), even, Coding::kBorders};
  with_real(x.scalar_type(), [&](auto real) {
    using R = decltype(real);
    launch(x, table_threads(x), &classify_kernel<R>, to.x.const_data_ptr(), codes, x.numel(),
           stored(x.scalar_type()), border_table<R>(borders));
  });
  return to.codes;
}

std::tuple<Tensor, Tensor> few_bit(const Tensor& x, StringHandle function, Numbers parameters,
                                   Numbers borders, Numbers levels, int64_t bits, bool even,
                                   std::optional<Tensor> seed) {
  const std::string name = taken(function);
  const Classified to = prepare_few_bit(x, name, parameters, borders, levels, bits, seed);
  const Coding coding = seed ? Coding::kDrawn : to.stepwise ? Coding::kPieces : Coding::kBorders;
  const Codes codes{static_cast<uint8_t*>(to.codes.mutable_data_ptr()),
                    seed ? static_cast<const int64_t*>(seed->const_data_ptr()) : nullptr,
                    static_cast<int>(bits), even, coding};
  with_function(name, x.scalar_type(), [&](auto f, auto real) {
    using F = decltype(f);
    using R = decltype(real);
    launch(x, table_threads(x), &few_bit_kernel<F, R>, to.x.const_data_ptr(),
           to.y.mutable_data_ptr(), codes, x.numel(), stored(x.scalar_type()),
           Function<F, R>(parameters, x.scalar_type()),
           seed ? level_table<R>(levels) : border_table<R>(borders));
  });
  return {to.y, to.codes};
}

Tensor look_up(const LookedUp& to, const Tensor& codes, const Numbers& levels, int64_t bits) {
  const void* grad = to.grad ? to.grad->const_data_ptr() : nullptr;
  with_real(to.out.scalar_type(), [&](auto real) {
    using R = decltype(real);
    launch(to.out, table_threads(to.out), &lookup_kernel<R>, grad,
           static_cast<const uint8_t*>(codes.const_data_ptr()), to.out.mutable_data_ptr(),
           static_cast<int>(bits), to.out.numel(), stored(to.out.scalar_type()),
           level_table<R>(levels));
  });
  return to.out;
}

Tensor lookup(const Tensor& codes, Numbers levels, int64_t bits, Shape size, Shape stride,
              ScalarType dtype) {
  return look_up(prepare_lookup(codes, levels, bits, size, stride, dtype), codes, levels, bits);
}

Tensor few_bit_backward(const Tensor& grad, const Tensor& codes, Numbers levels, int64_t bits,
                        Shape stride) {
  const LookedUp to = prepare_few_bit_backward(grad, codes, levels, bits, stride);
  return look_up(to, codes, levels, bits);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) {
  m.impl("classify", TORCH_BOX(&classify));
  m.impl("lookup", TORCH_BOX(&lookup));
  m.impl("few_bit", TORCH_BOX(&few_bit));
  m.impl("few_bit_backward", TORCH_BOX(&few_bit_backward));
}
