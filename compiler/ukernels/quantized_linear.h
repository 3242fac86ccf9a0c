// Linear layers over int8 and int4 weights, shared by all x86-64 feature levels. A level's .c file
// defines the primitives below and includes this file.
//
// Everything is freestanding: no libc, no globals, no thread-local storage. IREE calls each
// function once a workgroup, with a pointer and an element offset for each buffer.
//
// Weights: panels of 16 output channels (see docs/quantisation.md).
//   int8: [panel][k / 4][16][4] signed bytes
//   int4: [panel][k / 8][16][4] bytes; low nibble is k, high nibble k + 4, both plus 8
//   scales: [panel][k / group][16] f16; with zero points, these follow in the same shape
// Activations: int8 in blocks of 32 along k, each with an f32 scale and an i32 correction, which
// is minus the kernel's zero point times the sum of the block.
//
// A level defines:
//   ROWS                       rows of activations in registers at a time
//   ZERO8                      what load8 adds to a weight
//   vi, vf                     16 x i32, 16 x f32
//   wv                         16 x 4 weights, as dot wants them
//   splat_i(i32), zero_f()     all lanes alike
//   load8(p), load4(p, lo, hi) weights of one k / 4 (int8), of two (int4)
//   dot(acc, w, p)             acc[n] += sum of w[n][j] * p[j], j = 0..3
//   load_half(p)               16 x f16 as f32
//   scale_add(sum, acc, s, x)  sum + f32(acc) * s * x
//   times(a, b, x)             a * b * x
//   store(p, v)
// and may define PAIRS, with which rows are multiplied two at a time:
//   vp                         2 x 16 x i32; zero_p()
//   dot_pair(acc, lo, hi, p, q)  acc += w[n][j] * p[j], and * q[j], j = 0..7: 0..3 in lo, 4..7 in hi
//   add_pair(a, b, acc)        a and b, vi, += what acc has of p, and of q
//   quantize_block(x, q, s)    32 floats to int8; stores the scale, returns the sum

#include <stddef.h>
#include <stdint.h>

#define BLOCK 32
#define PANEL 16
#define ZERO4 8
#define MAX_FUSED_K 16384
#define AHEAD 2048  // bytes of weights, of a single row's product
#define INLINE static inline __attribute__((always_inline))

// A block of a panel by `rows` rows of activations x, k apart, added to acc.
INLINE void dots(const int rows, const int bits, vi *acc, const uint8_t *w, const int8_t *x,
                 size_t k) {
#ifdef PAIRS
  if (rows > 1) {
    vp pairs[ROWS / 2];
#pragma unroll
    for (int r = 0; r < rows / 2; ++r) pairs[r] = zero_p();
#pragma unroll
    for (int j = 0; j < BLOCK / 8; ++j) {
      wv low, high;
      if (bits == 8) low = load8(w + j * 128), high = load8(w + j * 128 + 64);
      else load4(w + j * 64, &low, &high);
#pragma unroll
      for (int r = 0; r < rows / 2; ++r) {
        const int8_t *const p = x + 2 * r * k + j * 8;
        pairs[r] = dot_pair(pairs[r], low, high, p, p + k);
      }
    }
#pragma unroll
    for (int r = 0; r < rows / 2; ++r) add_pair(acc + 2 * r, acc + 2 * r + 1, pairs[r]);
    return;
  }
#endif
  if (bits == 8) {
#pragma unroll
    for (int j = 0; j < BLOCK / 4; ++j) {
      const wv v = load8(w + j * 64);
#pragma unroll
      for (int r = 0; r < rows; ++r) acc[r] = dot(acc[r], v, x + r * k + j * 4);
    }
  } else {
#pragma unroll
    for (int j = 0; j < BLOCK / 8; ++j) {
      wv low, high;
      load4(w + j * 64, &low, &high);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        acc[r] = dot4(acc[r], low, x + r * k + j * 8);
        acc[r] = dot4(acc[r], high, x + r * k + j * 8 + 4);
      }
    }
  }
}

// One panel by `rows` rows; `rows`, `bits` and whether there are `zeros` (zero points, in wz) are
// constants at every call. What a zero point z adds to a block is -z times its scales and the sum
// of its activations, which the correction holds times -ZERO4.
INLINE void tile(const int rows, const int bits, const int zeros, const int8_t *q, const float *s,
                 const int32_t *c, const uint8_t *w, const uint16_t *ws, const uint16_t *wz,
                 float *out, size_t n, size_t width, size_t k, size_t group) {
  const size_t blocks = k / BLOCK, per_group = group / BLOCK;
  vf sum[ROWS];
#pragma unroll
  for (int r = 0; r < rows; ++r) sum[r] = zero_f();
  size_t until = 0;
  vf scale = zero_f(), shift = zero_f();
  for (size_t b = 0; b < blocks; ++b) {
    if (b == until) {
      if (rows == 1) __builtin_prefetch(ws + AHEAD / 8, 0, 2);
      scale = load_half(ws);
      ws += PANEL;
      if (zeros) {
        shift = times(scale, load_half(wz), 1.0f / ZERO4);
        wz += PANEL;
      }
      until += per_group;
    }
    // Hardware looks ahead less, and not past a page. While rows are computed with one panel, the
    // next is asked for. A single row is bound by what its core can fetch: what it would ask for
    // behind its last panel, another core reads.
    const size_t ahead = rows == 1 ? AHEAD : k * PANEL * bits / 8;
#pragma unroll
    for (int i = 0; i < BLOCK * PANEL * bits / 8; i += 64) __builtin_prefetch(w + ahead + i, 0, 2);
    vi acc[ROWS];
#pragma unroll
    for (int r = 0; r < rows; ++r) acc[r] = splat_i(c[r * blocks + b]);
    dots(rows, bits, acc, w, q + b * BLOCK, k);
    w += BLOCK * PANEL * bits / 8;
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      sum[r] = scale_add(sum[r], acc[r], scale, s[r * blocks + b]);
      if (zeros) sum[r] = scale_add(sum[r], splat_i(c[r * blocks + b]), shift, s[r * blocks + b]);
    }
  }
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    if (width == PANEL) {
      store(out + r * n, sum[r]);
    } else {
      float edge[PANEL];
      store(edge, sum[r]);
      for (size_t i = 0; i < width; ++i) out[r * n + i] = edge[i];
    }
  }
}

// Panels first .. first + count of rows m0 .. m1.
INLINE void matmul(const int bits, const int zeros, const int8_t *q, const float *s,
                   const int32_t *c, const uint8_t *w, const uint16_t *ws, float *out, size_t m0,
                   size_t m1, size_t n, size_t k, size_t group, size_t first, size_t count) {
  const size_t panels = (n + PANEL - 1) / PANEL, blocks = k / BLOCK;
  const size_t end = first + count < panels ? first + count : panels;
  for (size_t p = first; p < end; ++p) {
    const uint8_t *wp = w + p * PANEL * k * bits / 8;
    const uint16_t *sp = ws + p * PANEL * (k / group);
    const uint16_t *zp = sp + panels * PANEL * (k / group);
    const size_t width = n - p * PANEL < PANEL ? n - p * PANEL : PANEL;
    size_t m = m0;
    float *o = out + p * PANEL;
#define ROWS_OF_TILE(rows)                                                                       \
  for (; m + (rows) <= m1; m += (rows))                                                          \
    tile(rows, bits, zeros, q + m * k, s + m * blocks, c + m * blocks, wp, sp, zp, o + m * n, n, \
         width, k, group);
    ROWS_OF_TILE(ROWS)
    if (ROWS > 4) ROWS_OF_TILE(ROWS > 4 ? 4 : 1)
    ROWS_OF_TILE(2)
    ROWS_OF_TILE(1)
#undef ROWS_OF_TILE
  }
}

INLINE void quantize_row(const float *x, int8_t *q, float *s, int32_t *c, size_t k, int32_t zero) {
  for (size_t b = 0; b < k / BLOCK; ++b)
    c[b] = -zero * quantize_block(x + b * BLOCK, q + b * BLOCK, s + b);
}

#define ZERO_OF(bits) ((bits) == 8 ? ZERO8 : ZERO4)

// Rows row .. row + count (at most m) of x f32 [m][k] to q i8 [m][k], s f32 and c i32 [m][k / 32].
#define QUANTIZE(bits)                                                                            \
  void edgec_quantize_rows_i##bits(const float *x, size_t xo, int8_t *q, size_t qo, float *s,     \
                                   size_t so, int32_t *c, size_t co, size_t m, size_t k,          \
                                   size_t row, size_t count) {                                    \
    const size_t end = row + count < m ? row + count : m, blocks = k / BLOCK;                     \
    for (size_t r = row; r < end; ++r)                                                            \
      quantize_row(x + xo + r * k, q + qo + r * k, s + so + r * blocks, c + co + r * blocks, k,   \
                   ZERO_OF(bits));                                                                \
  }

// out f32 [m][n], its columns of `count` panels from `first`, its rows of `rows` from `row`.
#define MATMUL(name, bits, zeros)                                                                 \
  void edgec_quantized_matmul_##name(                                                             \
      const int8_t *q, size_t qo, const float *s, size_t so, const int32_t *c, size_t co,         \
      const uint8_t *w, size_t wo, const uint16_t *ws, size_t wso, float *out, size_t oo,         \
      size_t m, size_t n, size_t k, size_t group, size_t first, size_t count, size_t row,         \
      size_t rows) {                                                                              \
    const size_t end = row + rows < m ? row + rows : m;                                           \
    matmul(bits, zeros, q + qo, s + so, c + co, w + wo, ws + wso, out + oo, row, end, n, k,       \
           group, first, count);                                                                       \
  }

// One row: each workgroup quantises it for itself, which costs less than another dispatch.
#define MATVEC(name, bits, zeros)                                                                 \
  void edgec_quantized_matvec_##name(const float *x, size_t xo, const uint8_t *w, size_t wo,      \
                                      const uint16_t *ws, size_t wso, float *out, size_t oo,      \
                                      size_t n, size_t k, size_t group, size_t first,             \
                                      size_t count) {                                             \
    int8_t q[MAX_FUSED_K];                                                                        \
    float s[MAX_FUSED_K / BLOCK];                                                                 \
    int32_t c[MAX_FUSED_K / BLOCK];                                                               \
    quantize_row(x + xo, q, s, c, k, ZERO_OF(bits));                                              \
    matmul(bits, zeros, q, s, c, w + wo, ws + wso, out + oo, 0, 1, n, k, group, first, count);    \
  }

QUANTIZE(8)
QUANTIZE(4)
MATMUL(i8, 8, 0)
MATMUL(i4, 4, 0)
MATMUL(i4z, 4, 1)
MATVEC(i8, 8, 0)
MATVEC(i4, 4, 0)
MATVEC(i4z, 4, 1)

#include "quantized_grouped.h"

// One row by the panels of several layers, of which `first` .. `first` + `count` are this
// workgroup's.
INLINE void matvecs(const int bits, const int zeros, const int parts, const float *x,
                    const uint8_t *const *w, const uint16_t *const *ws, float *const *out,
                    const size_t *n, size_t k, size_t group, size_t first, size_t count) {
  int8_t q[MAX_FUSED_K];
  float s[MAX_FUSED_K / BLOCK];
  int32_t c[MAX_FUSED_K / BLOCK];
  quantize_row(x, q, s, c, k, ZERO_OF(bits));
  size_t before = 0;
  for (int i = 0; i < parts; ++i) {
    const size_t panels = (n[i] + PANEL - 1) / PANEL;
    const size_t from = first > before ? first - before : 0;
    const size_t to = first + count > before ? first + count - before : 0;
    if (from < panels && to > from)
      matmul(bits, zeros, q, s, c, w[i], ws[i], out[i], 0, 1, n[i], k, group, from, to - from);
    before += panels;
  }
}

#define MATVEC2(name, bits, zeros)                                                                \
  void edgec_quantized_matvec2_##name(                                                            \
      const float *x, size_t xo, const uint8_t *w0, size_t wo0, const uint16_t *s0, size_t so0,   \
      const uint8_t *w1, size_t wo1, const uint16_t *s1, size_t so1, float *o0, size_t oo0,       \
      float *o1, size_t oo1, size_t n0, size_t n1, size_t k, size_t group, size_t first,          \
      size_t count) {                                                                             \
    const uint8_t *const w[] = {w0 + wo0, w1 + wo1};                                              \
    const uint16_t *const s[] = {s0 + so0, s1 + so1};                                             \
    float *const out[] = {o0 + oo0, o1 + oo1};                                                    \
    const size_t n[] = {n0, n1};                                                                  \
    matvecs(bits, zeros, 2, x + xo, w, s, out, n, k, group, first, count);                        \
  }

#define MATVEC3(name, bits, zeros)                                                                \
  void edgec_quantized_matvec3_##name(                                                            \
      const float *x, size_t xo, const uint8_t *w0, size_t wo0, const uint16_t *s0, size_t so0,   \
      const uint8_t *w1, size_t wo1, const uint16_t *s1, size_t so1, const uint8_t *w2,           \
      size_t wo2, const uint16_t *s2, size_t so2, float *o0, size_t oo0, float *o1, size_t oo1,   \
      float *o2, size_t oo2, size_t n0, size_t n1, size_t n2, size_t k, size_t group,             \
      size_t first, size_t count) {                                                               \
    const uint8_t *const w[] = {w0 + wo0, w1 + wo1, w2 + wo2};                                    \
    const uint16_t *const s[] = {s0 + so0, s1 + so1, s2 + so2};                                   \
    float *const out[] = {o0 + oo0, o1 + oo1, o2 + oo2};                                          \
    const size_t n[] = {n0, n1, n2};                                                              \
    matvecs(bits, zeros, 3, x + xo, w, s, out, n, k, group, first, count);                        \
  }

MATVEC2(i8, 8, 0)
MATVEC2(i4, 4, 0)
MATVEC2(i4z, 4, 1)
MATVEC3(i8, 8, 0)
MATVEC3(i4, 4, 0)
MATVEC3(i4z, 4, 1)
