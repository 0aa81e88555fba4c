// The CPU kernels as plain functions: codec_kernels.cpp and mask_kernels.cpp are compiled once per
// instruction set, and kernels() picks the best this processor has.
#pragma once

#include <cstdint>

namespace fxmem {

enum Element { kFloat32, kBFloat16, kFloat16, kElements };

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

struct Kernels {
  // Each works on groups, or on units of eight elements, [first, last).
  void (*encode)(const EncodeTask&, Element, int bits, int64_t first, int64_t last);
  void (*decode)(const DecodeTask&, Element, int bits, int64_t first, int64_t last);
  void (*pack)(const MaskTask&, int bits, int64_t first, int64_t last);
  void (*unpack)(const MaskTask&, int bits, int64_t first, int64_t last);
};

const Kernels& kernels();

}  // namespace fxmem
