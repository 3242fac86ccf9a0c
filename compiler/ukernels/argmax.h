// The largest number of a part of a row and where it first stands, for all feature levels.
//
// A workgroup has one part: it looks for the largest number block by block, and then for its place
// in the first block that has it, which still lies in the first-level cache. A NaN counts as
// infinity, see edgec.passes.lowerings.argmax.
//
// Buffers:
//   x        f32 [rows][n]
//   largest  f32 [rows][parts]
//   place    i32 [rows][parts], in the row; 0 where nothing is above minus infinity

#define LANES 16
#define VECTORS 4  // compared side by side: one waits for its last comparison

#include "vector.h"

typedef int32_t vi __attribute__((ext_vector_type(LANES)));

INLINE vf larger(vf a, vf b) { return a > b ? a : b; }

INLINE float largest_of(const float *x, size_t n) {
  vf most[VECTORS];
  vi no_number[VECTORS];
#pragma unroll
  for (int j = 0; j < VECTORS; ++j) most[j] = (vf)-__builtin_inff(), no_number[j] = (vi)0;
  size_t i = 0;
  for (; i + LANES * VECTORS <= n; i += LANES * VECTORS) {
#pragma unroll
    for (int j = 0; j < VECTORS; ++j) {
      const vf value = *(const vf_any *)(x + i + LANES * j);
      most[j] = larger(value, most[j]);
      no_number[j] |= value != value;
    }
  }
#pragma unroll
  for (int j = 1; j < VECTORS; ++j)
    most[0] = larger(most[0], most[j]), no_number[0] |= no_number[j];
  float result = __builtin_reduce_max(most[0]);
  int is_nan = __builtin_reduce_or(no_number[0]) != 0;
  for (; i < n; ++i) result = x[i] > result ? x[i] : result, is_nan |= x[i] != x[i];
  return is_nan ? __builtin_inff() : result;
}

// Numbers part * per .. (part + 1) * per of row `row`.
KERNEL(argmax) {
  x += row * n;
  const size_t end = (part + 1) * per < n ? (part + 1) * per : n;
  float best = -__builtin_inff();
  size_t at = 0;
  for (size_t i = part * per; i < end; i += BLOCK) {
    const float most = largest_of(x + i, end - i < BLOCK ? end - i : BLOCK);
    if (most > best) best = most, at = i;
  }
  while (best > -__builtin_inff() && x[at] < best) ++at;
  largest[row * parts + part] = best;
  place[row * parts + part] = (int32_t)at;
}
