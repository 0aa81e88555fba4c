// Run-time choices made compile-time ones.
#pragma once

#include <type_traits>

namespace fxmem {

// call(integral_constant) with the one of the constants that `value` equals; the last by default.
template <int kFirst, int... kRest, typename Call>
static void with_constant(int value, const Call& call) {
  if constexpr (sizeof...(kRest) > 0) {
    if (value != kFirst) return with_constant<kRest...>(value, call);
  }
  call(std::integral_constant<int, kFirst>{});
}

}  // namespace fxmem
