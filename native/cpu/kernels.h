// The CPU kernels as plain functions: the *_kernels.cpp and activation_curves.cpp are compiled once
// per instruction set, and kernels() picks the best this processor has.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "../xnor_output.h"

namespace fxmem {

enum Element { kFloat32, kBFloat16, kFloat16, kFloat64 };

struct EncodeTask {
  const void* x;
  uint8_t* codes;
  uint16_t* scales;
  int64_t n;
  int group;
  const int64_t* seed;  // null: round to nearest
};

struct DecodeTask {
  const uint8_t* codes;
  const uint16_t* scales;
  void* out;
  int64_t n;
  int group;
};

struct MaskTask {
  const uint8_t* in;
  uint8_t* out;
  int64_t n;  // elements
};

// A float is above a border exactly if it is above the nearest float at or below it.
inline float rounded_down(double border) {
  const auto nearest = static_cast<float>(border);
  return nearest > border ? std::nextafter(nearest, -INFINITY) : nearest;
}

// Up to 256 numbers as float32 and float64 kernels want them.
struct Table {
  float narrow[256];
  double wide[256];
};

struct Function {
  const std::string& name;
  const double* parameters;
  int parameter_count;
};

struct FewBitTask {
  const void* x;
  void* y;  // null: codes alone
  uint8_t* codes;
  int64_t n;
  const Function* function;  // null with y
  const Table* borders;      // 2^bits - 1 of x, with a seed of the slope; null: the function's own
  const Table* levels;       // for a seed
  int bits;
  bool even;
  const int64_t* seed;  // null: the nearest level
};

struct LookupTask {
  const void* grad;  // null: the levels alone
  const uint8_t* codes;
  void* out;
  int64_t n;
  const Table* levels;  // 2^bits
  int bits;
};

struct FromOutputTask {
  const void* grad;  // null in the forward
  const void* in;    // x in the forward, y in the backward
  void* out;
  uint8_t* branch;  // null where the function has one branch
  int64_t n;
  const Function& function;
};

struct GatedTask {
  const void *grad, *gate, *up;  // grad: null in the forward
  void *out, *up_grad;           // out: in the backward, the gradient of gate
  int64_t n;
  const Function& function;
};

struct SketchTask {
  const void* x;
  void* out;
  int kind;                        // a Projection
  int64_t n, rows, width, stride;  // stride: from a row of x to the next
  uint64_t seed;
};

constexpr int64_t kSketchColumns = 768;  // of a block, worked on at a time

constexpr int kTile = 1024;  // elements of an activation that are worked on at a time

struct XnorTask : XnorOutput {
  const uint8_t* a;        // rows of `words` 8-byte words
  const uint64_t* panels;  // b's rows, kXnorColumns of them word by word; the last filled with 0
  int64_t columns, words, n;
};

constexpr int64_t kXnorColumns = 16;  // rows of b in a panel

struct AbsmaxTask {
  const float* x;
  const float* factor;  // null, one a row (by column), or one a column, `period` of them repeated
  int8_t* codes;
  float* scale;  // one a row or one a column
  int64_t rows, columns, period;
  float levels;
  bool by_column;
  const int64_t* seed;  // null: round to nearest
};

constexpr int64_t kAbsmaxColumns = 256;  // quantized at a time

struct SignTask {
  const void* x;
  uint8_t *bits, *passes;  // streams of x >= 0 and of |x| <= 1
  void* magnitude;         // the mean |x| of each row
  int64_t rows, columns;
  bool wide;  // float64, else float32
};

constexpr int64_t kSignRows = 8;  // fill whole bytes, whatever their length

struct NormPlace {
  int64_t channel, slot;  // whose x_hat is side[:, slot]
};

// The backward of a norm, over [outer, groups, depth, span]. What is by channel or group is of the
// type of the sums; x_hat = (y - shift) * inverse, of which places have 0 and 1.
struct NormTask {
  const void *grad, *y, *side, *rstd;
  void* out;
  const void *weight, *shift, *inverse;  // [groups, pitch], filled up with 0
  void* sums;                            // null, or [parts, 2, groups, pitch]: of weight and bias
  const NormPlace* places;               // in the order of their channels
  int64_t outer, groups, depth, span;
  int64_t place_count, pitch;
  int64_t step;  // of outer in a part
  bool centred;
};

constexpr int64_t kNormVector = 16;  // channels of a group are filled up to as many

struct Kernels {
  // Each works on groups, on units of eight elements, or on tiles, [first, last).
  void (*encode)(const EncodeTask&, Element, int bits, int64_t first, int64_t last);
  void (*decode)(const DecodeTask&, Element, int bits, int64_t first, int64_t last);
  void (*pack)(const MaskTask&, int bits, int64_t first, int64_t last);
  void (*unpack)(const MaskTask&, int bits, int64_t first, int64_t last);
  void (*few_bit)(const FewBitTask&, Element, int64_t first, int64_t last);
  void (*lookup)(const LookupTask&, Element, int64_t first, int64_t last);
  void (*from_output)(const FromOutputTask&, Element, int64_t first, int64_t last);
  void (*gated)(const GatedTask&, Element, int64_t first, int64_t last);
  // A block after the other, and of each kSketchColumns after the others.
  void (*sketch)(const SketchTask&, Element, int64_t first, int64_t last);
  // Rows of a; rows, or blocks of kAbsmaxColumns columns.
  void (*xnor)(const XnorTask&, int64_t first, int64_t last);
  void (*absmax)(const AbsmaxTask&, int64_t first, int64_t last);
  void (*signs)(const SignTask&, int64_t first, int64_t last);  // blocks of kSignRows rows
  // Parts of a group, and of each group after the others.
  void (*norm_backward)(const NormTask&, Element, int64_t first, int64_t last);
};

const Kernels& kernels();

}  // namespace fxmem
