// Operations that linear layers fold into a product's dispatch: the norm of their rows before,
// and afterwards a bias, a sum with another tensor, or one layer's activation times another layer.
// Included by linear.h and quantized_linear.h.

#pragma once

#include "power_of_two.h"

#define WIDE 16

typedef float wide __attribute__((ext_vector_type(WIDE)));
typedef wide wide_any __attribute__((aligned(4)));

// NORM, NORM_WEIGHT, ADDED and BIAS are the bits of what a call folds in, SILU and GELU_TANH the
// activations of a gate; what is not there has a pointer that is not read.

// The first `count` of WIDE numbers; what is past them is neither read nor written.
INLINE wide load_wide(const float *p, size_t count) {
  if (count >= WIDE) return *(const wide_any *)p;
  wide v = (wide)0.0f;
  for (size_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
INLINE void store_wide(float *p, wide v, size_t count) {
  if (count >= WIDE) *(wide_any *)p = v;
  else
    for (size_t i = 0; i < count; ++i) p[i] = v[i];
}

typedef struct {
  size_t folds;
  const float *weight;
  float eps;
} Norm;

// A row's factor; k is a multiple of 2 * WIDE.
INLINE float norm_factor(const Norm *n, const float *x, size_t k) {
  wide a = (wide)0.0f, b = (wide)0.0f;
  for (size_t d = 0; d < k; d += 2 * WIDE) {
    const wide v = load_wide(x + d, WIDE), w = load_wide(x + d + WIDE, WIDE);
    a += v * v;
    b += w * w;
  }
  a += b;
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < WIDE / 2; ++i) total += a[i] + a[i + WIDE / 2];
  return 1.0f / __builtin_elementwise_sqrt(total / (float)k + n->eps);
}

// Columns d .. d + WIDE of a row, normed.
INLINE wide normed(const Norm *n, float factor, const float *x, size_t d) {
  const wide v = load_wide(x + d, WIDE) * (wide)factor;
  return n->folds & NORM_WEIGHT ? v * load_wide(n->weight + d, WIDE) : v;
}

// x * sigmoid(x), or x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), which is gelu with tanh.
INLINE wide activated(size_t activation, wide x) {
  wide u = x;
  if (activation == GELU_TANH) u = x * ((wide)1.59576912f + (wide)0.0713548163f * x * x);
  const wide e = power_of_two(-__builtin_elementwise_abs(u) * (wide)LOG2E);
  return x * ((u < (wide)0.0f ? e : (wide)1.0f) / ((wide)1.0f + e));
}

typedef struct {
  const float *bias;   // [n], or null
  const float *added;  // [m][n], or null
  float alpha;
} Fold;

// Rows row .. until of out [m][n], their columns from .. to.
INLINE void fold(const Fold *f, float *out, size_t n, size_t row, size_t until, size_t from,
                 size_t to) {
  if (!f->bias && !f->added) return;
  for (; row < until; ++row)
    for (size_t c = from; c < to; c += WIDE) {
      const size_t count = to - c;
      wide v = load_wide(out + row * n + c, count);
      if (f->bias) v += load_wide(f->bias + c, count);
      if (f->added) v = load_wide(f->added + row * n + c, count) + (wide)f->alpha * v;
      store_wide(out + row * n + c, v, count);
    }
}

// out = activation(out) * up: `rows` rows of `columns`, n apart and `apart` apart.
INLINE void gate(size_t activation, float *out, size_t n, const float *up, size_t apart,
                 size_t rows, size_t columns) {
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < columns; c += WIDE) {
      const size_t count = columns - c;
      const wide x = load_wide(out + r * n + c, count);
      store_wide(out + r * n + c, activated(activation, x) * load_wide(up + r * apart + c, count),
                 count);
    }
}

// The part of a workgroup that takes first .. first + count of several layers' units, laid end to
// end: *from .. *end of the layer that begins after `before` of them and has `size`.
INLINE int part_of(size_t size, size_t before, size_t first, size_t count, size_t *from,
                   size_t *end) {
  const size_t until = first + count > before ? first + count - before : 0;
  *from = first > before ? first - before : 0;
  *end = until < size ? until : size;
  return *from < *end;
}
