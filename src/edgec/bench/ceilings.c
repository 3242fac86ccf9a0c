// Measures a core's limits: read memory, multiply and add in f32, multiply in int8.
// Each function does a fixed amount of work that the compiler cannot drop or shorten.

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

// Vectors of the widest registers there are; independent sums hide the latency of an addition.
#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX2__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define SUMS 12
#if defined(__x86_64__)
#define IN_REGISTER "+x"
#else
#define IN_REGISTER "+w"
#endif
typedef float floats __attribute__((vector_size(WIDTH * 4), aligned(4)));

// Reads `count` floats, a multiple of WIDTH * SUMS, and returns something that depends on all.
float read_all(const float *data, size_t count) {
  floats sums[SUMS] = {0};
  for (size_t i = 0; i < count; i += WIDTH * SUMS)
    for (int s = 0; s < SUMS; ++s) sums[s] += *(const floats *)(data + i + s * WIDTH);
  float total = 0;
  for (int s = 0; s < SUMS; ++s)
    for (int w = 0; w < WIDTH; ++w) total += sums[s][w];
  return total;
}

// 2 * WIDTH * SUMS * rounds operations.
float multiply_add(size_t rounds, float factor) {
  floats sums[SUMS], x, y;
  for (int w = 0; w < WIDTH; ++w) x[w] = factor, y[w] = 1.0f - factor;
  for (int s = 0; s < SUMS; ++s) sums[s] = x + (float)s;
  for (size_t r = 0; r < rounds; ++r) {
    for (int s = 0; s < SUMS; ++s) sums[s] = sums[s] * x + y;
    // Keeps the sums in registers and the rounds apart.
    for (int s = 0; s < SUMS; ++s) __asm__ volatile("" : IN_REGISTER(sums[s]));
  }
  float total = 0;
  for (int s = 0; s < SUMS; ++s)
    for (int w = 0; w < WIDTH; ++w) total += sums[s][w];
  return total;
}

// The operations (multiplications and additions) of one round of `multiply_int8`; 0 without it.
// The instruction that is used, for a reader, is in `int8_instruction`.
#if defined(__AVX512VNNI__)
const char *int8_instruction(void) { return "vpdpbusd zmm"; }
size_t int8_per_round(void) { return (size_t)SUMS * 64 * 2; }
int32_t multiply_int8(size_t rounds, int seed) {
  __m512i sums[SUMS], x = _mm512_set1_epi8((char)seed), y = _mm512_set1_epi8((char)(seed + 1));
  for (int s = 0; s < SUMS; ++s) sums[s] = _mm512_set1_epi32(s);
  for (size_t r = 0; r < rounds; ++r) {
    for (int s = 0; s < SUMS; ++s) sums[s] = _mm512_dpbusd_epi32(sums[s], x, y);
    for (int s = 0; s < SUMS; ++s) __asm__ volatile("" : "+x"(sums[s]));
  }
  int32_t total = 0;
  for (int s = 0; s < SUMS; ++s) total += _mm512_reduce_add_epi32(sums[s]);
  return total;
}
#elif defined(__AVX2__)
const char *int8_instruction(void) { return "vpmaddubsw ymm"; }
size_t int8_per_round(void) { return (size_t)SUMS * 32 * 2; }
int32_t multiply_int8(size_t rounds, int seed) {
  __m256i sums[SUMS], x = _mm256_set1_epi8((char)seed), y = _mm256_set1_epi8((char)(seed + 1));
  for (int s = 0; s < SUMS; ++s) sums[s] = _mm256_set1_epi16((short)s);
  for (size_t r = 0; r < rounds; ++r) {
    for (int s = 0; s < SUMS; ++s) sums[s] = _mm256_add_epi16(sums[s], _mm256_maddubs_epi16(x, y));
    // The factors too, or the products would be taken out of the loop.
    __asm__ volatile("" : "+x"(x), "+x"(y));
    for (int s = 0; s < SUMS; ++s) __asm__ volatile("" : "+x"(sums[s]));
  }
  int32_t total = 0;
  for (int s = 0; s < SUMS; ++s)
    for (int w = 0; w < 16; ++w) total += ((int16_t *)&sums[s])[w];
  return total;
}
#elif defined(__ARM_FEATURE_DOTPROD)
const char *int8_instruction(void) { return "sdot"; }
size_t int8_per_round(void) { return (size_t)SUMS * 16 * 2; }
int32_t multiply_int8(size_t rounds, int seed) {
  int32x4_t sums[SUMS];
  int8x16_t x = vdupq_n_s8((int8_t)seed), y = vdupq_n_s8((int8_t)(seed + 1));
  for (int s = 0; s < SUMS; ++s) sums[s] = vdupq_n_s32(s);
  for (size_t r = 0; r < rounds; ++r) {
    for (int s = 0; s < SUMS; ++s) sums[s] = vdotq_s32(sums[s], x, y);
    for (int s = 0; s < SUMS; ++s) __asm__ volatile("" : "+w"(sums[s]));
  }
  int32_t total = 0;
  for (int s = 0; s < SUMS; ++s) total += vaddvq_s32(sums[s]);
  return total;
}
#else
const char *int8_instruction(void) { return ""; }
size_t int8_per_round(void) { return 0; }
int32_t multiply_int8(size_t rounds, int seed) { return (int32_t)rounds + seed; }
#endif

size_t f32_per_round(void) { return (size_t)2 * WIDTH * SUMS; }
size_t read_step(void) { return (size_t)WIDTH * SUMS; }
