// The activations in float and double. Compiled once per instruction set, into namespace FXMEM_ISA.
#include "activation_curves.h"

namespace fxmem {
namespace FXMEM_ISA {

Curve<float> float32_curve(const std::string& function) {
  return find_curve<float, double, float>(function);
}

Curve<float> float16_curve(const std::string& function) {
  return find_curve<float, float, float>(function);
}

}  // namespace FXMEM_ISA
}  // namespace fxmem
