// NEON with matrix products: smmla multiplies two rows of activations by two channels of weights,
// eight at a time, which is twice what sdot does. A single row has dot products.

#define ROWS 4
#define PAIRS
#include "quantized_linear_neon.h"

// v[i] has channels 2i and 2i + 1 of the first row, then of the second.
typedef struct {
  int32x4_t v[8];
} vp;

INLINE vp zero_p(void) {
  vp r;
  for (int i = 0; i < 8; ++i) r.v[i] = vdupq_n_s32(0);
  return r;
}

INLINE vp dot_pair(vp acc, wv low, wv high, const int8_t *p, const int8_t *q) {
  const int8x16_t x = vcombine_s8(vld1_s8(p), vld1_s8(q));
  const parts l = quarters(low), h = quarters(high);
  EACH {
    const int32x4_t a = vreinterpretq_s32_s8(l.v[i]), b = vreinterpretq_s32_s8(h.v[i]);
    acc.v[2 * i] = vmmlaq_s32(acc.v[2 * i], x, vreinterpretq_s8_s32(vzip1q_s32(a, b)));
    acc.v[2 * i + 1] = vmmlaq_s32(acc.v[2 * i + 1], x, vreinterpretq_s8_s32(vzip2q_s32(a, b)));
  }
  return acc;
}

INLINE void add_pair(vi *first, vi *second, vp acc) {
  EACH {
    const int64x2_t a = vreinterpretq_s64_s32(acc.v[2 * i]),
                    b = vreinterpretq_s64_s32(acc.v[2 * i + 1]);
    first->v[i] = vaddq_s32(first->v[i], vreinterpretq_s32_s64(vzip1q_s64(a, b)));
    second->v[i] = vaddq_s32(second->v[i], vreinterpretq_s32_s64(vzip2q_s64(a, b)));
  }
}

#include "quantized_linear.h"
