// AVX2 with FMA and F16C. vpmaddubsw saturates at 16 bits, so signed weights go in as magnitudes
// and their signs move to the activations: 2 * 127 * 127 fits. Codes of up to 7 bits fit as they
// are.

#include <immintrin.h>

#include "quantized_vectors.h"

#define ROWS 4
#define SIGNED_ZERO 0

typedef struct {
  __m256i a, b;
} vi;
typedef uint8_t wv_half __attribute__((ext_vector_type(32)));
typedef float vf_half __attribute__((ext_vector_type(8)));

INLINE vi splat_i(int32_t x) { return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }

INLINE vf floats(vi v) {
  const vf_half a = (vf_half)_mm256_cvtepi32_ps(v.a), b = (vf_half)_mm256_cvtepi32_ps(v.b);
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

INLINE vi halves(wv w) { return (vi){(__m256i)w.lo, (__m256i)w.hi}; }
INLINE wv whole(vi v) {
  wv w;
  w.lo = (wv_half)v.a;
  w.hi = (wv_half)v.b;
  return w;
}

INLINE __m256i products(__m256i acc, __m256i w, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(w, x);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

PRIMITIVE vi dot_unsigned(vi acc, wv w, const int8_t *p) {
  const __m256i x = _mm256_set1_epi32(four_bytes(p));
  const vi v = halves(w);
  return (vi){products(acc.a, v.a, x), products(acc.b, v.b, x)};
}

PRIMITIVE vi dot_signed(vi acc, wv w, const int8_t *p) {
  const __m256i x = _mm256_set1_epi32(four_bytes(p));
  const vi v = halves(w);
  return (vi){products(acc.a, _mm256_abs_epi8(v.a), _mm256_sign_epi8(x, v.a)),
              products(acc.b, _mm256_abs_epi8(v.b), _mm256_sign_epi8(x, v.b))};
}

PRIMITIVE wv look_up(sixteen table, wv codes) {
  const __m256i values = _mm256_broadcastsi128_si256((__m128i)table);
  const vi v = halves(codes);
  return whole((vi){_mm256_shuffle_epi8(values, v.a), _mm256_shuffle_epi8(values, v.b)});
}

INLINE float largest(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

INLINE int32_t total(__m256i v) {
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

INLINE int32_t quantize_block(const float *x, int8_t *q, float *s, int32_t *half) {
  const __m256 positive = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256 v[4], most = _mm256_setzero_ps();
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_loadu_ps(x + 8 * i);
    most = _mm256_max_ps(_mm256_and_ps(v[i], positive), most);
  }
  const float top = largest(most);
  const __m256 inverse = _mm256_set1_ps(top > 1e-30f ? 127.0f / top : 0.0f);
  __m256i n[4];
  for (int i = 0; i < 4; ++i) n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((__m256i *)q, _mm256_permutevar8x32_epi32(bytes, order));
  *s = top / 127.0f;
  const __m256i first = _mm256_add_epi32(n[0], n[1]);
  *half = total(first);
  return total(_mm256_add_epi32(first, _mm256_add_epi32(n[2], n[3])));
}

#include "quantized_linear.h"
