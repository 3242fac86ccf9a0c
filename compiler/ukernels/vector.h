// Vectors of LANES numbers, of the types that weights and caches have. Vectors are clang's.

#pragma once

#include "common.h"

typedef float vf __attribute__((ext_vector_type(LANES)));
typedef uint32_t vu __attribute__((ext_vector_type(LANES)));
typedef _Float16 vh __attribute__((ext_vector_type(LANES)));
typedef uint16_t vs __attribute__((ext_vector_type(LANES)));
typedef int8_t vb __attribute__((ext_vector_type(LANES)));
typedef vf vf_any __attribute__((aligned(4)));
typedef vh vh_any __attribute__((aligned(2)));
typedef vs vs_any __attribute__((aligned(2)));
typedef vb vb_any __attribute__((aligned(1)));

INLINE vf splat(float x) { return (vf)x; }
INLINE vf load(const float *p) { return *(const vf_any *)p; }
INLINE void store(float *p, vf v) { *(vf_any *)p = v; }

// Types of elements; `kind` is a constant at every call.
enum { F32, F16, BF16, I8 };
INLINE size_t size_of(const int kind) { return kind == F32 ? 4 : kind == I8 ? 1 : 2; }
INLINE vf load_as(const int kind, const char *p, size_t column) {
  if (kind == F16) return __builtin_convertvector(((const vh_any *)(p + column * 2))[0], vf);
  if (kind == BF16)
    return (vf)(__builtin_convertvector(((const vs_any *)(p + column * 2))[0], vu) << 16);
  if (kind == I8) return __builtin_convertvector(((const vb_any *)(p + column))[0], vf);
  return load((const float *)p + column);
}
