// AVX-512 with VNNI: vpdpbusd multiplies unsigned weights by signed activations, four at a time.

#include <immintrin.h>
#include <stdint.h>

#define ROWS 8
#define ZERO8 128
#define PRIMITIVE static inline __attribute__((always_inline))

typedef __m512i vi;
typedef __m512 vf;
typedef __m512i wv;

PRIMITIVE vi splat_i(int32_t x) { return _mm512_set1_epi32(x); }
PRIMITIVE vf zero_f(void) { return _mm512_setzero_ps(); }

PRIMITIVE wv load8(const uint8_t *p) {
  return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8((char)0x80));
}

PRIMITIVE void load4(const uint8_t *p, wv *low, wv *high) {
  const __m512i v = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
  *low = _mm512_and_si512(v, mask);
  *high = _mm512_and_si512(_mm512_srli_epi16(v, 4), mask);
}

PRIMITIVE vi dot(vi acc, wv w, const int8_t *p) {
  int32_t four;
  __builtin_memcpy_inline(&four, p, 4);
  return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(four));
}

PRIMITIVE vi dot4(vi acc, wv w, const int8_t *p) { return dot(acc, w, p); }

PRIMITIVE vf load_half(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

PRIMITIVE vf scale_add(vf sum, vi acc, vf scale, float x) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_mul_ps(scale, _mm512_set1_ps(x)), sum);
}

PRIMITIVE vf times(vf a, vf b, float x) {
  return _mm512_mul_ps(_mm512_mul_ps(a, b), _mm512_set1_ps(x));
}

PRIMITIVE void store(float *p, vf v) { _mm512_storeu_ps(p, v); }

PRIMITIVE int32_t quantize_block(const float *x, int8_t *q, float *s) {
  const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
  const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
  const __m512 inverse = _mm512_set1_ps(most > 1e-30f ? 127.0f / most : 0.0f);
  const __m512i i = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
  const __m512i j = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
  _mm_storeu_si128((__m128i *)q, _mm512_cvtsepi32_epi8(i));
  _mm_storeu_si128((__m128i *)(q + 16), _mm512_cvtsepi32_epi8(j));
  *s = most / 127.0f;
  return _mm512_reduce_add_epi32(_mm512_add_epi32(i, j));
}

#include "quantized_linear.h"
