// The activations in long double, to the last place of float64: slow, and seldom asked for.
#include "activation_curves.h"

namespace fxmem {

Curve<double> float64_curve(const std::string& function) {
  return find_curve<double, long double, long double>(function);
}

}  // namespace fxmem
