#include "../activations.h"

#include "kernels.h"

namespace {

using namespace fxmem;

constexpr int64_t kGrain = 32;  // tiles

Element element(ScalarType dtype) {
  if (dtype == ScalarType::Float) return kFloat32;
  if (dtype == ScalarType::BFloat16) return kBFloat16;
  return dtype == ScalarType::Half ? kFloat16 : kFloat64;
}

template <typename Task>
void run(void (*kernel)(const Task&, Element, int64_t, int64_t), const Task& task,
         const Tensor& of) {
  const Element type = element(of.scalar_type());
  torch::stable::parallel_for(0, ceil_div(task.n, kTile), kGrain, [&](int64_t first, int64_t last) {
    kernel(task, type, first, last);
  });
}

uint8_t* bytes(const Tensor& codes) { return static_cast<uint8_t*>(codes.mutable_data_ptr()); }

const void* data(const std::optional<Tensor>& x) { return x ? x->const_data_ptr() : nullptr; }

Function function_of(const std::string& name, const Numbers& parameters) {
  return {name, parameters.data(), static_cast<int>(parameters.size())};
}

// Parameters as torch compares with them: where x has a float32's digits or fewer, in float32.
Numbers compared(const char* op, const std::string& name, const Numbers& parameters,
                 const Tensor& x) {
  const bool wide = x.scalar_type() == ScalarType::Double;
  const bool steps = !wide && traits_of(op, name, parameters).stepwise;
  return steps ? rounded(parameters, ScalarType::Float) : parameters;
}

float rounded_near(double level) { return static_cast<float>(level); }

// The numbers, and then `rest`.
Table table_of(const Numbers& numbers, double rest, float (*narrowed)(double)) {
  Table table;
  for (size_t i = 0; i < std::size(table.wide); ++i) {
    table.wide[i] = i < numbers.size() ? numbers[i] : rest;
    table.narrow[i] = narrowed(table.wide[i]);
  }
  return table;
}

Tensor classify(const Tensor& x, Numbers borders, int64_t bits, bool even) {
  const Classified to = prepare_classify(x, borders, bits);
  const Table table = table_of(borders, INFINITY, rounded_down);
  FewBitTask task{};
  task.x = to.x.const_data_ptr();
  task.codes = bytes(to.codes);
  task.n = x.numel();
  task.borders = &table;
  task.bits = static_cast<int>(bits);
  task.even = even;
  run(kernels().few_bit, task, x);
  return to.codes;
}

std::tuple<Tensor, Tensor> few_bit(const Tensor& x, StringHandle function, Numbers parameters,
                                   Numbers borders, Numbers levels, int64_t bits, bool even,
                                   std::optional<Tensor> seed) {
  const std::string name = taken(function);
  const Classified to = prepare_few_bit(x, name, parameters, borders, levels, bits, seed);
  const Numbers own = compared("few_bit", name, parameters, x);
  const Function known = function_of(name, own);
  // Codes that are drawn lie between levels: all but the outermost are borders.
  if (seed && levels.size() > 2) borders.assign(levels.begin() + 1, levels.end() - 1);
  const Table edges = table_of(borders, INFINITY, seed ? rounded_near : rounded_down);
  const Table slopes = table_of(levels, NAN, rounded_near);
  const FewBitTask task{to.x.const_data_ptr(),
                        to.y.mutable_data_ptr(),
                        bytes(to.codes),
                        x.numel(),
                        &known,
                        to.stepwise && !seed ? nullptr : &edges,
                        &slopes,
                        static_cast<int>(bits),
                        even,
                        static_cast<const int64_t*>(data(seed))};
  run(kernels().few_bit, task, x);
  return {to.y, to.codes};
}

Tensor look_up(const LookedUp& to, const Tensor& codes, const Numbers& levels, int64_t bits) {
  const Table table = table_of(levels, NAN, rounded_near);
  const LookupTask task{data(to.grad),
                        static_cast<const uint8_t*>(codes.const_data_ptr()),
                        to.out.mutable_data_ptr(),
                        to.out.numel(),
                        &table,
                        static_cast<int>(bits)};
  run(kernels().lookup, task, to.out);
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

void run_from_output(const FromOutput& to, const std::string& name) {
  const FromOutputTask task{data(to.grad),
                            to.in.const_data_ptr(),
                            to.out.mutable_data_ptr(),
                            to.two_branches ? bytes(to.branch) : nullptr,
                            to.in.numel(),
                            function_of(name, to.parameters)};
  run(kernels().from_output, task, to.in);
}

std::tuple<Tensor, Tensor> from_output(const Tensor& x, StringHandle function, Numbers parameters) {
  const std::string name = taken(function);
  const Numbers own = compared("from_output", name, parameters, x);
  const FromOutput to = prepare_from_output(x, name, own);
  run_from_output(to, name);
  return {to.out, to.branch};
}

Tensor from_output_backward(const Tensor& grad, const Tensor& y, const Tensor& branch,
                            StringHandle function, Numbers parameters) {
  const std::string name = taken(function);
  const FromOutput to = prepare_from_output_backward(grad, y, branch, name, parameters);
  run_from_output(to, name);
  return to.out;
}

Gated run_gated(const Gated& to, const std::string& name, const Numbers& parameters) {
  const Numbers own = compared("gated", name, parameters, to.gate);
  const GatedTask task{data(to.grad),
                       to.gate.const_data_ptr(),
                       to.up.const_data_ptr(),
                       to.out.mutable_data_ptr(),
                       to.up_grad.mutable_data_ptr(),
                       to.gate.numel(),
                       function_of(name, own)};
  run(kernels().gated, task, to.gate);
  return to;
}

Tensor gated(const Tensor& gate, const Tensor& up, StringHandle function, Numbers parameters) {
  const std::string name = taken(function);
  const Gated to = prepare_gated("gated", std::nullopt, gate, up, name, parameters);
  return run_gated(to, name, parameters).out;
}

std::tuple<Tensor, Tensor> gated_backward(const Tensor& grad, const Tensor& gate, const Tensor& up,
                                          StringHandle function, Numbers parameters) {
  const std::string name = taken(function);
  const Gated to = prepare_gated("gated_backward", grad, gate, up, name, parameters);
  run_gated(to, name, parameters);
  return {to.out, to.up_grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fxmem, CPU, m) {
  m.impl("classify", TORCH_BOX(&classify));
  m.impl("lookup", TORCH_BOX(&lookup));
  m.impl("few_bit", TORCH_BOX(&few_bit));
  m.impl("few_bit_backward", TORCH_BOX(&few_bit_backward));
  m.impl("from_output", TORCH_BOX(&from_output));
  m.impl("from_output_backward", TORCH_BOX(&from_output_backward));
  m.impl("gated", TORCH_BOX(&gated));
  m.impl("gated_backward", TORCH_BOX(&gated_backward));
}
