// The primitives of quantized_linear.h for AArch64 with dot products: sdot multiplies signed
// weights by signed activations, four at a time; codes of up to 7 bits are signed as they are.

#include <arm_neon.h>

#include "quantized_vectors.h"

#define SIGNED_ZERO 0
#define EACH for (int i = 0; i < 4; ++i)

typedef struct {
  int32x4_t v[4];
} vi;
typedef float vf_quarter __attribute__((ext_vector_type(4)));
typedef float vf_half __attribute__((ext_vector_type(8)));
typedef uint8_t wv_half __attribute__((ext_vector_type(32)));
typedef uint8_t wv_part __attribute__((ext_vector_type(16)));

typedef struct {
  int8x16_t v[4];
} parts;

INLINE vi splat_i(int32_t x) {
  vi r;
  EACH r.v[i] = vdupq_n_s32(x);
  return r;
}

INLINE vf floats(vi v) {
  vf r;
  r.lo.lo = (vf_quarter)vcvtq_f32_s32(v.v[0]);
  r.lo.hi = (vf_quarter)vcvtq_f32_s32(v.v[1]);
  r.hi.lo = (vf_quarter)vcvtq_f32_s32(v.v[2]);
  r.hi.hi = (vf_quarter)vcvtq_f32_s32(v.v[3]);
  return r;
}

INLINE parts quarters(wv w) {
  return (parts){{(int8x16_t)w.lo.lo, (int8x16_t)w.lo.hi, (int8x16_t)w.hi.lo, (int8x16_t)w.hi.hi}};
}

PRIMITIVE vi dot_signed(vi acc, wv w, const int8_t *p) {
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four_bytes(p)));
  const parts q = quarters(w);
  EACH acc.v[i] = vdotq_s32(acc.v[i], q.v[i], x);
  return acc;
}

PRIMITIVE vi dot_unsigned(vi acc, wv w, const int8_t *p) { return dot_signed(acc, w, p); }

PRIMITIVE wv look_up(sixteen table, wv codes) {
  const int8x16_t values = (int8x16_t)table;
  const parts q = quarters(codes);
  wv r;
  r.lo.lo = (wv_part)vqtbl1q_s8(values, vreinterpretq_u8_s8(q.v[0]));
  r.lo.hi = (wv_part)vqtbl1q_s8(values, vreinterpretq_u8_s8(q.v[1]));
  r.hi.lo = (wv_part)vqtbl1q_s8(values, vreinterpretq_u8_s8(q.v[2]));
  r.hi.hi = (wv_part)vqtbl1q_s8(values, vreinterpretq_u8_s8(q.v[3]));
  return r;
}

INLINE int32_t quantize_block(const float *x, int8_t *q, float *s, int32_t *half) {
  float32x4_t most = vdupq_n_f32(0.0f);
  for (int i = 0; i < 8; ++i) most = vmaxq_f32(most, vabsq_f32(vld1q_f32(x + 4 * i)));
  const float top = vmaxvq_f32(most), inverse = top > 1e-30f ? 127.0f / top : 0.0f;
  int32x4_t sums[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
  for (int i = 0; i < 8; i += 2) {
    const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), inverse));
    const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i + 4), inverse));
    sums[i / 4] = vaddq_s32(sums[i / 4], vaddq_s32(a, b));
    vst1_s8(q + 4 * i, vqmovn_s16(vcombine_s16(vqmovn_s32(a), vqmovn_s32(b))));
  }
  *s = top / 127.0f;
  *half = vaddvq_s32(sums[0]);
  return *half + vaddvq_s32(sums[1]);
}
