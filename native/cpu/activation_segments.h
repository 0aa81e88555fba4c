// The slope from the output of an activation with a minimum, as polynomials on segments: for
// processors that look 8 or 32 numbers up in one instruction.
#pragma once

#include "kernels.h"

namespace fxmem {

// The slope lies in segments of s = sqrt(y - lowest), which is negative on the left branch. Above
// `start` there, slope / y lies in segments of sqrt(-y): it is log-like at y = 0, where y makes up
// for it. The more numbers one instruction looks up, the more segments and the fewer terms.
template <int kInTail, int kInAll, int kTermsDegree>
struct Segments {
  static constexpr int kTail = kInTail, kAll = kInAll, kDegree = kTermsDegree;
  float turn;                             // right of it the branch bit is set
  float lowest, lowest_rest, start, top;  // from `top` on the slope is 1
  float stretch;                          // of y in the tail, that there `scale` serves, too
  float scale, offset;                    // of the segment's number; in the tail there is no offset
  float terms[kDegree + 1][kAll];         // of the place within the segment, 0 to 1
};

// Null if the function has parameters, or if this is not what its slope looks like. Found once.
template <typename Segments>
const Segments* segments_of(const Function& function);

}  // namespace fxmem
