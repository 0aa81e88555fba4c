// The backward of a norm from its output on CUDA. Sums of weight and bias are made by parts of the
// batch, then added: in the same order at each call.
#include "norms.cuh"

namespace {

using namespace fxmem;

constexpr int kWarp = 32, kWarps = kThreads / kWarp;
constexpr int64_t kMostParts = 64;  // of the batch, whose sums are apart
constexpr int64_t kWarpRow = 1024;  // elements of a row that one warp still does

// The sum over the threads of a team, a warp or a block; all of them are here.
template <int kTeam, typename R>
__device__ inline R team_sum(R x) {
  for (int half = kWarp / 2; half > 0; half /= 2) x += __shfl_xor_sync(0xFFFFFFFFU, x, half);
  if constexpr (kTeam > kWarp) {
    __shared__ R of_warps[kWarps];
    __syncthreads();  // the former sum has been read
    if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < kWarps; ++w) x += of_warps[w];
  }
  return x;
}

// Every kTeam-th element of a row: its channel and its place in that channel's span. Nothing is
// divided but at the start.
template <int kTeam, bool kSpans>
struct Walk {
  int64_t c, s = 0, channels = kTeam, rest = 0, span = 1;

  __device__ Walk(int64_t first_channel, int lane, int64_t length) : c(first_channel + lane) {
    if constexpr (kSpans) {
      span = length;
      c = first_channel + lane / span;
      s = lane % span;
      channels = kTeam / span;
      rest = kTeam % span;
    }
  }

  __device__ void next() {
    c += channels;
    s += rest;
    if (kSpans && s >= span) {
      s -= span;
      ++c;
    }
  }
};

// A team of threads does a row. kSpans: channels have several elements.
template <int kTeam, bool kSpans, typename T>
__global__ void rows_kernel(NormTask<T> task) {
  using R = Sum<T>;
  const NormSizes& z = task.sizes;
  const int64_t rows = z.outer * z.groups, length = z.depth * z.span;
  const int lane = threadIdx.x % kTeam, team = threadIdx.x / kTeam;
  const int64_t stride = all_threads() / kTeam;
  // Whole blocks stay in the loop: the sums want every thread.
  for (int64_t row = this_thread() / kTeam; row - team < rows; row += stride) {
    const int64_t n = row / z.groups, end = row < rows ? length : 0;
    const Walk<kTeam, kSpans> begin(row % z.groups * z.depth, lane, z.span);
    R plain = 0, scaled = 0;
    Walk<kTeam, kSpans> at = begin;
    for (int64_t i = lane; i < end; i += kTeam, at.next()) {
      const R g = to_sum(task.grad[row * length + i]) * task.of.weight[at.c];
      plain += g;
      scaled += g * x_hat_at(task, n, at.c, at.s);
    }
    plain = team_sum<kTeam>(plain);
    scaled = team_sum<kTeam>(scaled);
    if (end == 0) continue;
    const R share = R{1} / static_cast<R>(length), rstd = task.rstd[row];
    const R mean = task.centred ? plain * share : R{0}, slope = scaled * share;
    at = begin;
    for (int64_t i = lane; i < end; i += kTeam, at.next()) {
      const R g = to_sum(task.grad[row * length + i]) * task.of.weight[at.c];
      const R made = rstd * (g - mean - x_hat_at(task, n, at.c, at.s) * slope);
      task.out[row * length + i] = from_sum<T>(made);
    }
  }
}

// The sums over a part of the batch of grad * x_hat and of grad, [parts, 2, channels]: a warp has
// 32 channels of one element, or one channel of several.
template <bool kSpans, typename T>
__global__ void parts_kernel(NormTask<T> task, Sum<T>* sums, int64_t parts) {
  using R = Sum<T>;
  const NormSizes& z = task.sizes;
  const int64_t channels = z.channels(), step = (z.outer + parts - 1) / parts;
  const int64_t tiles = kSpans ? channels : (channels + kWarp - 1) / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int64_t stride = all_threads() / kWarp;
  for (int64_t tile = this_thread() / kWarp; tile < tiles * parts; tile += stride) {
    const int64_t part = tile / tiles, c = kSpans ? tile % tiles : tile % tiles * kWarp + lane;
    const int64_t begin = part * step, end = begin + step < z.outer ? begin + step : z.outer;
    R of_weight = 0, of_bias = 0;
    for (int64_t n = begin; n < end && c < channels; ++n) {
      for (int64_t s = kSpans ? lane : 0; s < z.span; s += kWarp) {
        const R g = to_sum(task.grad[(n * channels + c) * z.span + s]);
        of_weight += g * x_hat_at(task, n, c, s);
        of_bias += g;
      }
    }
    if constexpr (kSpans) {
      of_weight = team_sum<kWarp>(of_weight);
      of_bias = team_sum<kWarp>(of_bias);
    }
    if (c < channels && (!kSpans || lane == 0)) {
      sums[2 * part * channels + c] = of_weight;
      sums[(2 * part + 1) * channels + c] = of_bias;
    }
  }
}

template <typename R>
__global__ void totals_kernel(const R* sums, int64_t parts, int64_t channels, R* of_weight,
                              R* of_bias) {
  for (int64_t c = this_thread(); c < channels; c += all_threads()) {
    double weight = 0, bias = 0;
    for (int64_t p = 0; p < parts; ++p) {
      weight += sums[2 * p * channels + c];
      bias += sums[(2 * p + 1) * channels + c];
    }
    if (of_weight != nullptr) of_weight[c] = static_cast<R>(weight);
    if (of_bias != nullptr) of_bias[c] = static_cast<R>(bias);
  }
}

template <typename T>
void add_up(const NormTask<T>& task, NormBackward& to) {
  using R = Sum<T>;
  const NormSizes& z = to.sizes;
  const int64_t parts = std::min(z.outer, kMostParts), channels = z.channels();
  const Tensor memory = torch::stable::new_empty(to.output, Shape{2 * parts * channels}, to.wide);
  auto* sums = static_cast<R*>(memory.mutable_data_ptr());
  if (z.span == 1) {
    launch(to.output, ceil_div(channels, kWarp) * parts * kWarp, &parts_kernel<false, T>, task,
           sums, parts);
  } else {
    launch(to.output, channels * parts * kWarp, &parts_kernel<true, T>, task, sums, parts);
  }
  const auto result = [](Tensor& x) {
    return x.numel() == 0 ? nullptr : static_cast<R*>(x.mutable_data_ptr());
  };
  launch(to.output, channels, &totals_kernel<R>, static_cast<const R*>(sums), parts, channels,
         result(to.weight_grad), result(to.bias_grad));
}

template <int kTeam, typename T>
void do_rows(const NormTask<T>& task, const Tensor& on) {
  const int64_t threads = task.sizes.outer * task.sizes.groups * kTeam;
  if (task.sizes.span == 1) {
    launch(on, threads, &rows_kernel<kTeam, false, T>, task);
  } else {
    launch(on, threads, &rows_kernel<kTeam, true, T>, task);
  }
}

template <typename T>
void run_as(NormBackward& to, NormLimits limits, bool centred, bool sums) {
  using R = Sum<T>;
  const int64_t bytes = to.sizes.channels() * kBytesByChannel<R>;
  const Tensor memory = torch::stable::new_empty(to.output, Shape{bytes}, ScalarType::Byte);
  const NormTask<T> task{static_cast<const T*>(to.grad.const_data_ptr()),
                         static_cast<const T*>(to.output.const_data_ptr()),
                         data<T>(to.side),
                         static_cast<const R*>(to.rstd.const_data_ptr()),
                         static_cast<T*>(to.input_grad.mutable_data_ptr()),
                         channels_in<R>(memory, to, limits),
                         to.sizes,
                         to.at ? to.at->numel() : 0,
                         centred};
  if (to.sizes.depth * to.sizes.span <= kWarpRow) {
    do_rows<kWarp>(task, to.output);
  } else {
    do_rows<kThreads>(task, to.output);
  }
  if (sums) add_up(task, to);
}

void run(NormBackward& to, NormLimits limits, bool centred, bool sums) {
  switch (to.output.scalar_type()) {
    case ScalarType::Double:
      return run_as<double>(to, limits, centred, sums);
    case ScalarType::Float:
      return run_as<float>(to, limits, centred, sums);
    case ScalarType::BFloat16:
      return run_as<__nv_bfloat16>(to, limits, centred, sums);
    default:
      return run_as<__half>(to, limits, centred, sums);
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CUDA, m) {
  m.impl("norm_backward", TORCH_BOX(&norm_backward<run>));
}
