// AVX-512 with VNNI: vpdpbusd multiplies unsigned weights by signed activations, four at a time.

#include <immintrin.h>

#include "quantized_vectors.h"

#define ROWS 8
#define SIGNED_ZERO 128

typedef __m512i vi;

INLINE vi splat_i(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vf floats(vi v) { return (vf)_mm512_cvtepi32_ps(v); }

PRIMITIVE vi dot_unsigned(vi acc, wv w, const int8_t *p) {
  return _mm512_dpbusd_epi32(acc, (vi)w, splat_i(four_bytes(p)));
}

PRIMITIVE vi dot_signed(vi acc, wv w, const int8_t *p) {
  return dot_unsigned(acc, w ^ (wv)(uint8_t)SIGNED_ZERO, p);
}

PRIMITIVE wv look_up(sixteen table, wv codes) {
  const __m512i values = _mm512_broadcast_i32x4((__m128i)table);
  return (wv)_mm512_shuffle_epi8(values, (vi)codes);
}

INLINE int32_t quantize_block(const float *x, int8_t *q, float *s, int32_t *half) {
  const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
  const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
  const __m512 inverse = _mm512_set1_ps(most > 1e-30f ? 127.0f / most : 0.0f);
  const __m512i i = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
  const __m512i j = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
  _mm_storeu_si128((__m128i *)q, _mm512_cvtsepi32_epi8(i));
  _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtsepi32_epi8(j));
  *s = most / 127.0f;
  *half = _mm512_reduce_add_epi32(i);
  return _mm512_reduce_add_epi32(_mm512_add_epi32(i, j));
}

#include "quantized_linear.h"
