// Vectors of quantized_linear.h: 16 channels of floats, and 4 columns of 16 channels of bytes.

#pragma once

#define LANES 16
#include "vector.h"

typedef uint8_t wv __attribute__((ext_vector_type(64)));
typedef wv wv_any __attribute__((aligned(1)));
typedef int8_t sixteen __attribute__((ext_vector_type(16)));

// What a format may make no use of.
#define PRIMITIVE INLINE __attribute__((unused))

INLINE int32_t four_bytes(const int8_t *p) {
  int32_t four;
  __builtin_memcpy_inline(&four, p, 4);
  return four;
}
