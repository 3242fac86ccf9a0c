// AVX2 with FMA and F16C. vpmaddubsw saturates at 16 bits, so int8 weights go in as magnitudes and
// their signs move to the activations: 2 * 127 * 127 fits. Nibbles fit as they are.

#include <immintrin.h>
#include <stdint.h>

#define ROWS 4
#define ZERO8 0
#define PRIMITIVE static inline __attribute__((always_inline))

typedef struct {
  __m256i a, b;
} vi;
typedef struct {
  __m256 a, b;
} vf;
typedef vi wv;

PRIMITIVE vi splat_i(int32_t x) { return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
PRIMITIVE vf zero_f(void) { return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()}; }

PRIMITIVE wv load8(const uint8_t *p) {
  return (wv){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1)};
}

PRIMITIVE void load4(const uint8_t *p, wv *low, wv *high) {
  const wv v = load8(p);
  const __m256i mask = _mm256_set1_epi8(15);
  *low = (wv){_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask)};
  *high = (wv){_mm256_and_si256(_mm256_srli_epi16(v.a, 4), mask),
               _mm256_and_si256(_mm256_srli_epi16(v.b, 4), mask)};
}

PRIMITIVE __m256i splat4(const int8_t *p) {
  int32_t four;
  __builtin_memcpy_inline(&four, p, 4);
  return _mm256_set1_epi32(four);
}

PRIMITIVE __m256i dot_unsigned(__m256i acc, __m256i w, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(w, x);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

PRIMITIVE vi dot(vi acc, wv w, const int8_t *p) {
  const __m256i x = splat4(p);
  return (vi){dot_unsigned(acc.a, _mm256_abs_epi8(w.a), _mm256_sign_epi8(x, w.a)),
              dot_unsigned(acc.b, _mm256_abs_epi8(w.b), _mm256_sign_epi8(x, w.b))};
}

PRIMITIVE vi dot4(vi acc, wv w, const int8_t *p) {
  const __m256i x = splat4(p);
  return (vi){dot_unsigned(acc.a, w.a, x), dot_unsigned(acc.b, w.b, x)};
}

PRIMITIVE vf load_half(const uint16_t *p) {
  return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
              _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1))};
}

PRIMITIVE vf scale_add(vf sum, vi acc, vf scale, float x) {
  const __m256 factor = _mm256_set1_ps(x);
  return (vf){_mm256_fmadd_ps(_mm256_cvtepi32_ps(acc.a), _mm256_mul_ps(scale.a, factor), sum.a),
              _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc.b), _mm256_mul_ps(scale.b, factor), sum.b)};
}

PRIMITIVE vf times(vf a, vf b, float x) {
  const __m256 factor = _mm256_set1_ps(x);
  return (vf){_mm256_mul_ps(_mm256_mul_ps(a.a, b.a), factor),
              _mm256_mul_ps(_mm256_mul_ps(a.b, b.b), factor)};
}

PRIMITIVE void store(float *p, vf v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}

PRIMITIVE float largest(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

PRIMITIVE int32_t total(__m256i v) {
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

PRIMITIVE int32_t quantize_block(const float *x, int8_t *q, float *s) {
  const __m256 positive = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 v[4], most = _mm256_setzero_ps();
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_loadu_ps(x + 8 * i);
    most = _mm256_max_ps(_mm256_and_ps(v[i], positive), most);
  }
  const float top = largest(most);
  const __m256 inverse = _mm256_set1_ps(top > 1e-30f ? 127.0f / top : 0.0f);
  __m256i n[4], sum = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    sum = _mm256_add_epi32(sum, n[i]);
  }
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((__m256i *)q, _mm256_permutevar8x32_epi32(bytes, order));
  *s = top / 127.0f;
  return total(sum);
}

#include "quantized_linear.h"
