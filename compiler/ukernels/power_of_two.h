// 2^x for the other kernels: freestanding code has no libm. Vectors are clang's.

#pragma once

#include "common.h"

#define LOG2E 1.44269504f

typedef float v16f __attribute__((ext_vector_type(16)));
typedef int32_t v16i __attribute__((ext_vector_type(16)));

// 2^x for x <= 0, within 2 units in the last place; 0 below -127 and of what is not a number.
INLINE v16f power_of_two(v16f x) {
  const v16f magic = (v16f)12582912.0f;  // 1.5 * 2^23: its last bits hold the rounded sum
  const v16f least = (v16f)-127.0f;      // whose exponent's bits are 0
  const v16f bounded = x > least ? x : least;
  const v16f shifted = bounded + magic;
  const v16f r = bounded - (shifted - magic);
  v16f p = (v16f)1.5353362e-4f;
  p = p * r + (v16f)1.3398874e-3f;
  p = p * r + (v16f)9.6184374e-3f;
  p = p * r + (v16f)5.5503324e-2f;
  p = p * r + (v16f)2.4022648e-1f;
  p = p * r + (v16f)6.9314718e-1f;
  p = p * r + (v16f)1.0f;
  return (v16f)((v16i)p + ((v16i)shifted << 23));
}
