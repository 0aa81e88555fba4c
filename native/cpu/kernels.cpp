#include "kernels.h"

#include <cstdlib>
#include <cstring>

namespace fxmem {

#define FXMEM_DECLARE(isa)                                                                     \
  namespace isa {                                                                              \
  void encode(const EncodeTask&, Element, int bits, int64_t, int64_t);                         \
  void decode(const DecodeTask&, Element, int bits, int64_t, int64_t);                         \
  void pack(const MaskTask&, int bits, int64_t, int64_t);                                      \
  void unpack(const MaskTask&, int bits, int64_t, int64_t);                                    \
  void few_bit(const FewBitTask&, Element, int64_t, int64_t);                                  \
  void lookup(const LookupTask&, Element, int64_t, int64_t);                                   \
  void from_output(const FromOutputTask&, Element, int64_t, int64_t);                          \
  void gated(const GatedTask&, Element, int64_t, int64_t);                                     \
  void sketch(const SketchTask&, Element, int64_t, int64_t);                                   \
  void xnor(const XnorTask&, int64_t, int64_t);                                                \
  void absmax(const AbsmaxTask&, int64_t, int64_t);                                            \
  void signs(const SignTask&, int64_t, int64_t);                                               \
  void norm_backward(const NormTask&, Element, int64_t, int64_t);                              \
  static const Kernels table{encode, decode, pack, unpack, few_bit, lookup,       from_output, \
                             gated,  sketch, xnor, absmax, signs,   norm_backward};            \
  }

FXMEM_DECLARE(baseline)
#ifdef __x86_64__
FXMEM_DECLARE(avx2)
FXMEM_DECLARE(avx512)
#endif

// FXMEM_ISA=baseline|avx2|avx512 asks for less than the best, for tests.
static const Kernels& choose() {
#ifdef __x86_64__
  const char* asked = std::getenv("FXMEM_ISA");
  const auto wanted = [&](const char* isa) {
    return asked == nullptr || std::strcmp(asked, isa) == 0;
  };
  __builtin_cpu_init();
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") &&
                        __builtin_cpu_supports("fma");
  if (has_avx512 && wanted("avx512")) return avx512::table;
  if (has_avx2 && wanted("avx2")) return avx2::table;
#endif
  return baseline::table;
}

const Kernels& kernels() {
  static const Kernels& best = choose();
  return best;
}

}  // namespace fxmem
