// e^x for the other kernels: freestanding code has no libm. Vectors are clang's.

#include <stdint.h>

// e^x for x <= 0, within 2 units in the last place; 0 below -87.
static inline __attribute__((always_inline)) float __attribute__((ext_vector_type(16)))
exponential(float __attribute__((ext_vector_type(16))) x) {
  typedef float vector __attribute__((ext_vector_type(16)));
  typedef int32_t integers __attribute__((ext_vector_type(16)));
  const vector magic = (vector)12582912.0f;  // 1.5 * 2^23: its last bits hold the rounded sum
  const vector bounded = __builtin_elementwise_max(x, (vector)-87.0f);
  const vector shifted = bounded * (vector)1.44269504f + magic;
  const vector n = shifted - magic;
  vector r = bounded - n * (vector)0.693359375f;
  r = r + n * (vector)2.12194440e-4f;
  vector p = (vector)1.9875691500e-4f;
  p = p * r + (vector)1.3981999507e-3f;
  p = p * r + (vector)8.3334519073e-3f;
  p = p * r + (vector)4.1665795894e-2f;
  p = p * r + (vector)1.6666665459e-1f;
  p = p * r + (vector)5.0000001201e-1f;
  p = p * r * r + r + (vector)1.0f;
  const vector result = (vector)((integers)p + ((integers)shifted << 23));
  return x < (vector)-87.0f ? (vector)0.0f : result;
}
