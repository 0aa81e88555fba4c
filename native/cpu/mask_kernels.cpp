// Bit streams on the CPU. Compiled once per instruction set, into namespace FXMEM_ISA.
#include "../bits.h"
#include "../dispatch.h"
#include "kernels.h"

namespace fxmem {
namespace {

template <int kBits>
FXMEM_INLINE void pack_unit(const MaskTask& task, int64_t u, int count) {
  uint64_t bytes = 0;
  memcpy(&bytes, task.in + u * 8, count);
  const uint64_t stream = squeeze<kBits>(bytes);
  memcpy(task.out + u * kBits, &stream, (count * kBits + 7) / 8);
}

// `loaded` bytes of the stream: those of the unit, or eight, of which those past it are cut off.
template <int kBits>
FXMEM_INLINE void unpack_unit(const MaskTask& task, int64_t u, int count, int loaded) {
  uint64_t stream = 0;
  memcpy(&stream, task.in + u * kBits, loaded);
  const uint64_t bytes = spread<kBits>(stream & low_bits(8 * kBits));
  memcpy(task.out + u * 8, &bytes, count);
}

template <int kBits>
void pack_units(const MaskTask& task, int64_t first, int64_t last) {
  const int64_t whole = last * 8 > task.n ? last - 1 : last;
  for (int64_t u = first; u < whole; ++u) pack_unit<kBits>(task, u, 8);
  if (whole < last) pack_unit<kBits>(task, whole, static_cast<int>(task.n - whole * 8));
}

template <int kBits>
void unpack_units(const MaskTask& task, int64_t first, int64_t last) {
  const int64_t bytes = (task.n * kBits + 7) / 8;
  const int64_t wide = bytes < 8 ? 0 : (bytes - 8) / kBits + 1;
  const int64_t whole = task.n / 8 < last ? task.n / 8 : last;
  int64_t u = first;
  for (; u < whole && u < wide; ++u) unpack_unit<kBits>(task, u, 8, 8);
  for (; u < whole; ++u) unpack_unit<kBits>(task, u, 8, kBits);
  if (u < last) {
    const int count = static_cast<int>(task.n - u * 8);
    unpack_unit<kBits>(task, u, count, (count * kBits + 7) / 8);
  }
}

}  // namespace

namespace FXMEM_ISA {

void pack(const MaskTask& task, int bits, int64_t first, int64_t last) {
  with_constant<1, 2, 3, 4, 5, 6, 7, 8>(bits,
                                        [&](auto k) { pack_units<k.value>(task, first, last); });
}

void unpack(const MaskTask& task, int bits, int64_t first, int64_t last) {
  with_constant<1, 2, 3, 4, 5, 6, 7, 8>(bits,
                                        [&](auto k) { unpack_units<k.value>(task, first, last); });
}

}  // namespace FXMEM_ISA
}  // namespace fxmem
