// The primitives of quantized_linear.h for AArch64 with dot products: sdot multiplies signed
// weights by signed activations, four at a time.

#include <arm_neon.h>
#include <stdint.h>

#define ZERO8 0
#define PRIMITIVE static inline __attribute__((always_inline))
#define EACH for (int i = 0; i < 4; ++i)

typedef struct {
  int32x4_t v[4];
} vi;
typedef struct {
  float32x4_t v[4];
} vf;
typedef struct {
  int8x16_t v[4];
} wv;

PRIMITIVE vi splat_i(int32_t x) {
  vi r;
  EACH r.v[i] = vdupq_n_s32(x);
  return r;
}

PRIMITIVE vf zero_f(void) {
  vf r;
  EACH r.v[i] = vdupq_n_f32(0.0f);
  return r;
}

PRIMITIVE wv load8(const uint8_t *p) {
  wv r;
  EACH r.v[i] = vld1q_s8((const int8_t *)p + 16 * i);
  return r;
}

PRIMITIVE void load4(const uint8_t *p, wv *low, wv *high) {
  EACH {
    const uint8x16_t v = vld1q_u8(p + 16 * i);
    low->v[i] = vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
    high->v[i] = vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
  }
}

PRIMITIVE vi dot(vi acc, wv w, const int8_t *p) {
  int32_t four;
  __builtin_memcpy_inline(&four, p, 4);
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
  EACH acc.v[i] = vdotq_s32(acc.v[i], w.v[i], x);
  return acc;
}

PRIMITIVE vi dot4(vi acc, wv w, const int8_t *p) { return dot(acc, w, p); }

PRIMITIVE vf load_half(const uint16_t *p) {
  vf r;
  EACH r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return r;
}

PRIMITIVE vf scale_add(vf sum, vi acc, vf scale, float x) {
  EACH sum.v[i] = vfmaq_f32(sum.v[i], vcvtq_f32_s32(acc.v[i]), vmulq_n_f32(scale.v[i], x));
  return sum;
}

PRIMITIVE vf times(vf a, vf b, float x) {
  EACH a.v[i] = vmulq_n_f32(vmulq_f32(a.v[i], b.v[i]), x);
  return a;
}

PRIMITIVE void store(float *p, vf v) { EACH vst1q_f32(p + 4 * i, v.v[i]); }

PRIMITIVE int32_t quantize_block(const float *x, int8_t *q, float *s) {
  float32x4_t most = vdupq_n_f32(0.0f);
  for (int i = 0; i < 8; ++i) most = vmaxq_f32(most, vabsq_f32(vld1q_f32(x + 4 * i)));
  const float top = vmaxvq_f32(most), inverse = top > 1e-30f ? 127.0f / top : 0.0f;
  int32x4_t sum = vdupq_n_s32(0);
  for (int i = 0; i < 8; i += 2) {
    const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), inverse));
    const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i + 4), inverse));
    sum = vaddq_s32(sum, vaddq_s32(a, b));
    vst1_s8(q + 4 * i, vqmovn_s16(vcombine_s16(vqmovn_s32(a), vqmovn_s32(b))));
  }
  *s = top / 127.0f;
  return vaddvq_s32(sum);
}
