// Linear layers over quantised weights, for all feature levels and one weight format. abi.h defines
// the format (edgec.passes.kernels.forms); a level's .c file defines the primitives below and
// includes this file.
//
// Weights: panels of 16 output channels, [panel][k / 32][BITS][16][4] bytes. A block of 32 columns
// is 8 chunks of 4. Its codes are cut into planes of 8, 4, 2 and 1 bits: a plane of p bits has p
// times 64 bytes, in which each byte holds a field of 8 / p chunks, the first in the low bits.
// Codes are unsigned; those of 8 bits are signed.
//
// Scales, for each group of columns, by SCALES:
//   FLAT       f16 [panel][k / group][16]; what OFFSET adds follows in the same shape
//   TWO_LEVEL  [panel][k / 256] of: f16 [16] for 256 columns, of offsets likewise; bytes
//              [256 / GROUP][16] that these are times, of offsets likewise
//   NIBBLES    the same with bytes that hold a scale in the low and an offset in the high half
//   EXPONENTS  bytes [panel][k / group][16], powers of two
// OFFSET says what a code stands for: scale times (code - MIDDLE), scale times (code - MIDDLE -
// zero point), or scale times code - minimum. CODEBOOK has the value of each code of 4 bits.
//
// Activations: int8 in blocks of 32 along k, each with an f32 scale, and 32 bits for each SPAN
// columns: minus their sum, as an f32 times the scale if there are offsets, else as an i32 times
// what weights in registers are too large by.
//
// A level defines:
//   ROWS                      rows of activations in registers at a time
//   SIGNED_ZERO               how much dot_signed's weights are too large
//   vi                        16 x i32
//   splat_i(i32), floats(vi)  all lanes alike; as vf
//   dot_unsigned(acc, w, p)   acc[n] += sum of w[n][j] * p[j], j = 0..3; w at most 127
//   dot_signed(acc, w, p)     the same with signed w
//   look_up(table, codes)     the table's values
//   quantize_block(x, q, s, half)  32 floats to int8; stores the scale and the sum of the first 16,
//                             returns the sum
// and may define PAIRS, with which rows are multiplied two at a time:
//   vp                        2 x 16 x i32; zero_p()
//   dot_pair(acc, lo, hi, p, q)  acc += w[n][j] * p[j], and * q[j], j = 0..7: 0..3 in lo, 4..7 in
//   hi add_pair(a, b, acc)       a and b, vi, += what acc has of p, and of q

#include "fold.h"

#define AHEAD 2048  // bytes of weights, of a single row's product
#define CHUNKS (BLOCK / 4)
#define PLANE_BYTES 64  // of each bit of a block's codes
#define BLOCK_BYTES (BITS * PLANE_BYTES)
#define SPANS (BLOCK / SPAN)

#if BITS == 8 || defined(CODEBOOK)
#define SIGNED
#define TOO_LARGE SIGNED_ZERO
#elif OFFSET == NO_OFFSET
#define TOO_LARGE MIDDLE
#else
#define TOO_LARGE 0
#endif
#define CORRECTED (OFFSET == NO_OFFSET ? TOO_LARGE > 0 : 0)  // whether sums begin with corrections

// The fields of chunk i in a plane, moved up.
INLINE wv field(const uint8_t *plane, const int bits, const int i, const int up) {
  const int fields = 8 / bits, shift = i % fields * bits - up;
  const wv v = *(const wv_any *)(plane + i / fields * PLANE_BYTES);
  const uint8_t mask = (uint8_t)(((1 << bits) - 1) << up);
  return (shift < 0 ? v << (uint8_t)(-shift) : v >> (uint8_t)shift) & mask;
}

// The codes of chunk i of a block, as dot_unsigned or dot_signed wants them.
INLINE wv codes(const uint8_t *w, const int i) {
  if (BITS == 8) return *(const wv_any *)(w + i * PLANE_BYTES);
  wv v = (wv)(uint8_t)0;
  int at = 0;
  if (BITS & 4) {
    v = field(w, 4, i, 0);
    at = 4;
  }
  if (BITS & 2) {
    v |= field(w + at * PLANE_BYTES, 2, i, at);
    at += 2;
  }
  if (BITS & 1) v |= field(w + at * PLANE_BYTES, 1, i, at);
#ifdef CODEBOOK
  return look_up((sixteen)CODEBOOK, v);
#else
  return v;
#endif
}

INLINE vi dot(vi acc, wv w, const int8_t *p) {
#ifdef SIGNED
  return dot_signed(acc, w, p);
#else
  return dot_unsigned(acc, w, p);
#endif
}

// Chunks from .. from + count of a block by `rows` rows of activations x, k apart, added to acc.
INLINE void dots(const int rows, vi *acc, const uint8_t *w, const int8_t *x, size_t k,
                 const int from, const int count) {
#ifdef PAIRS
  if (rows > 1) {
    vp pairs[ROWS / 2];
#pragma unroll
    for (int r = 0; r < rows / 2; ++r) pairs[r] = zero_p();
#pragma unroll
    for (int i = 0; i < count; i += 2) {
      const wv low = codes(w, from + i), high = codes(w, from + i + 1);
#pragma unroll
      for (int r = 0; r < rows / 2; ++r) {
        const int8_t *const p = x + 2 * r * k + i * 4;
        pairs[r] = dot_pair(pairs[r], low, high, p, p + k);
      }
    }
#pragma unroll
    for (int r = 0; r < rows / 2; ++r) add_pair(acc + 2 * r, acc + 2 * r + 1, pairs[r]);
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const wv v = codes(w, from + i);
#pragma unroll
    for (int r = 0; r < rows; ++r) acc[r] = dot(acc[r], v, x + r * k + i * 4);
  }
}

#if SCALES == TWO_LEVEL || SCALES == NIBBLES
#define SUPER 256  // columns that share an f16
#define SUPER_GROUPS (SUPER / GROUP)
#define SUPER_FLOATS (OFFSET == MINIMUM ? 2 : 1)
#define SUPER_BYTES \
  (2 * PANEL * SUPER_FLOATS + PANEL * SUPER_GROUPS * (SCALES == NIBBLES ? 1 : SUPER_FLOATS))
#endif

#if SCALES == FLAT
#define GROUP_BYTES (PANEL * 2)
#elif SCALES == EXPONENTS
#define GROUP_BYTES PANEL
#else
#define GROUP_BYTES (SUPER_BYTES / SUPER_GROUPS)
#endif

// Bytes of a panel's scales, of FLAT without offsets.
INLINE size_t scale_bytes(size_t k, size_t group) { return k / group * GROUP_BYTES; }

INLINE float as_float(int32_t bits) {
  float f;
  __builtin_memcpy_inline(&f, &bits, 4);
  return f;
}

// What a block keeps of the sum of SPAN columns.
INLINE int32_t correction(int32_t sum, float scale) {
  if (OFFSET == NO_OFFSET) return -TOO_LARGE * sum;
  const float value = -scale * (float)sum;
  int32_t bits;
  __builtin_memcpy_inline(&bits, &value, 4);
  return bits;
}

typedef uint8_t bytes __attribute__((ext_vector_type(LANES), aligned(1)));
INLINE vf halves_as_floats(const uint8_t *p) { return load_as(F16, (const char *)p, 0); }

// Where the scales of the next group are, in a panel's; z only of FLAT.
typedef struct {
  const uint8_t *s, *z;
  size_t group;  // of TWO_LEVEL and NIBBLES: its place in 256 columns
} Cursor;

// The scales of the next group, and the minima.
INLINE vf next_scales(Cursor *at, vf *minima) {
  (void)minima;
#if SCALES == FLAT
  const vf scale = halves_as_floats(at->s);
  at->s += GROUP_BYTES;
  if (OFFSET == MINIMUM) *minima = halves_as_floats(at->z);
  if (OFFSET == ZERO_POINT) *minima = scale * (halves_as_floats(at->z) + (vf)(float)MIDDLE);
  if (OFFSET != NO_OFFSET) at->z += GROUP_BYTES;
  return scale;
#elif SCALES == EXPONENTS
  const vu exponents = __builtin_convertvector(*(const bytes *)at->s, vu);
  at->s += GROUP_BYTES;
  return (vf)(exponents << 23);
#else
  const vf scale = halves_as_floats(at->s);
  const uint8_t *steps = at->s + 2 * PANEL * SUPER_FLOATS + at->group * PANEL;
  if (OFFSET == MINIMUM) *minima = halves_as_floats(at->s + 2 * PANEL);
  if (++at->group == SUPER_GROUPS) {
    at->group = 0;
    at->s += SUPER_BYTES;
  }
#if SCALES == NIBBLES
  const bytes both = *(const bytes *)steps;
  *minima *= __builtin_convertvector(both >> (uint8_t)4, vf);
  return scale * __builtin_convertvector(both & (uint8_t)15, vf);
#else
  if (OFFSET == NO_OFFSET) return scale * load_as(I8, (const char *)steps, 0);
  *minima *= __builtin_convertvector(*(const bytes *)(steps + SUPER_GROUPS * PANEL), vf);
  return scale * __builtin_convertvector(*(const bytes *)steps, vf);
#endif
#endif
}

// One panel by `rows` rows; `rows` is a constant at every call.
INLINE void tile(const int rows, const int8_t *q, const float *s, const int32_t *c,
                 const uint8_t *w, const uint8_t *ws, const uint8_t *wz, float *out, size_t n,
                 size_t width, size_t k, size_t group) {
  const size_t blocks = k / BLOCK, per_group = SPANS > 1 ? 1 : group / BLOCK;
  vf sum[ROWS];
#pragma unroll
  for (int r = 0; r < rows; ++r) sum[r] = splat(0.0f);
  Cursor at = {ws, wz, 0};
  size_t until = 0;
  vf scale = splat(0.0f), minima = splat(0.0f);
  for (size_t b = 0; b < blocks; ++b) {
    // Hardware looks ahead less, and not past a page. While rows are computed with one panel, the
    // next is asked for. A single row is bound by what its core can fetch: what it would ask for
    // behind its last panel, another core reads.
    const size_t ahead = rows == 1 ? AHEAD : blocks * BLOCK_BYTES;
#pragma unroll
    for (int i = 0; i < BLOCK_BYTES; i += 64) __builtin_prefetch(w + ahead + i, 0, 2);
#pragma unroll
    for (int part = 0; part < SPANS; ++part) {
      if (SPANS > 1 || b == until) {
        if (rows == 1) __builtin_prefetch(at.s + AHEAD / 4, 0, 2);
        scale = next_scales(&at, &minima);
        until += per_group;
      }
      vi acc[ROWS];
#pragma unroll
      for (int r = 0; r < rows; ++r)
        acc[r] = splat_i(CORRECTED ? c[(r * blocks + b) * SPANS + part] : 0);
      dots(rows, acc, w, q + b * BLOCK + part * SPAN, k, part * (CHUNKS / SPANS), CHUNKS / SPANS);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const float x = s[r * blocks + b];
        sum[r] += floats(acc[r]) * (scale * x);
        if (OFFSET != NO_OFFSET) sum[r] += minima * as_float(c[(r * blocks + b) * SPANS + part]);
      }
    }
    w += BLOCK_BYTES;
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

// Rows of activations as integers, and the shape of what is multiplied by them.
typedef struct {
  const int8_t *q;   // [m][k]
  const float *s;    // [m][k / BLOCK]
  const int32_t *c;  // [m][k / SPAN]
  size_t k, group;
} Rows;

// What a workgroup does of one layer of n features: panels first .. end.
typedef struct {
  const uint8_t *w;
  const void *ws;
  float *out;
  size_t n, first, end;
  Fold fold;
} Layer;

INLINE size_t panels_of(const Layer *l) { return (l->n + PANEL - 1) / PANEL; }

// Rows m0 .. m1 by panel p, to out, `stride` apart from row 0 on, whose first column is the
// panel's.
INLINE void panel(const Rows *x, const Layer *l, size_t p, float *out, size_t stride, size_t m0,
                  size_t m1) {
  const size_t k = x->k, blocks = k / BLOCK, scales = scale_bytes(k, x->group);
  const uint8_t *wp = l->w + p * blocks * BLOCK_BYTES;
  const uint8_t *sp = (const uint8_t *)l->ws + p * scales;
  const uint8_t *zp = sp + panels_of(l) * scales;
  const size_t width = l->n - p * PANEL < PANEL ? l->n - p * PANEL : PANEL;
  size_t m = m0;
#define ROWS_OF_TILE(rows)                                                             \
  for (; m + (rows) <= m1; m += (rows))                                                \
    tile(rows, x->q + m * k, x->s + m * blocks, x->c + m * blocks * SPANS, wp, sp, zp, \
         out + m * stride, stride, width, k, x->group);
  ROWS_OF_TILE(ROWS)
  if (ROWS > 4) ROWS_OF_TILE(ROWS > 4 ? 4 : 1)
  ROWS_OF_TILE(2)
  ROWS_OF_TILE(1)
#undef ROWS_OF_TILE
}

APART void matmul(const Rows *x, const Layer *l, size_t m0, size_t m1) {
  for (size_t p = l->first; p < l->end; ++p) {
    const size_t column = p * PANEL, until = column + PANEL < l->n ? column + PANEL : l->n;
    panel(x, l, p, l->out + column, l->n, m0, m1);
    fold(&l->fold, l->out, l->n, m0, m1, column, until);
  }
}

// activation(gate) * up, to the gate's `out`: a panel of the one, then the same of the other.
APART void gated(const Rows *x, const Layer *gates, const Layer *ups, size_t activation, size_t m0,
                 size_t m1) {
  ALIGNED float up[MOST_ROWS * PANEL];
  const size_t n = gates->n;
  for (size_t p = gates->first; p < gates->end; ++p) {
    const size_t column = p * PANEL, width = n - column < PANEL ? n - column : PANEL;
    panel(x, gates, p, gates->out + column, n, m0, m1);
    panel(x, ups, p, up - m0 * PANEL, PANEL, m0, m1);
    gate(activation, gates->out + m0 * n + column, n, up, PANEL, m1 - m0, width);
  }
}

// A row to integers, normed or not.
INLINE void quantize_row(const Norm *norm, const float *x, int8_t *q, float *s, int32_t *c,
                         size_t k) {
  const float factor = norm->folds & NORM ? norm_factor(norm, x, k) : 1.0f;
  for (size_t b = 0; b < k / BLOCK; ++b) {
    ALIGNED float values[BLOCK];
    const float *from = x + b * BLOCK;
    if (norm->folds & NORM) {
      for (size_t d = 0; d < BLOCK; d += WIDE)
        store_wide(values + d, normed(norm, factor, x, b * BLOCK + d), WIDE);
      from = values;
    }
    int32_t half;
    const int32_t sum = quantize_block(from, q + b * BLOCK, s + b, &half);
    if (SPANS == 1) {
      c[b] = correction(sum, s[b]);
    } else {
      c[2 * b] = correction(half, s[b]);
      c[2 * b + 1] = correction(sum - half, s[b]);
    }
  }
}

// Rows row .. row + count (at most m) of x f32 [m][k], normed or not, to q i8 [m][k], s f32
// [m][k / BLOCK] and c i32 [m][k / SPAN].
INLINE void quantize(const Norm *norm, const float *x, int8_t *q, float *s, int32_t *c, size_t m,
                     size_t k, size_t row, size_t count) {
  const size_t end = row + count < m ? row + count : m, blocks = k / BLOCK;
  for (size_t r = row; r < end; ++r)
    quantize_row(norm, x + r * k, q + r * k, s + r * blocks, c + r * blocks * SPANS, k);
}

KERNEL(quantize_rows) {
  const Norm of = {folds, norm, eps};
  quantize(&of, x, q, s, c, m, k, row, count);
}

#define LAYER(i)                                                          \
  {                                                                       \
    w##i, s##i, o##i, n##i, 0, 0, {                                       \
      folds &BIAS << i ? b##i : NULL, folds & ADDED ? added : NULL, alpha \
    }                                                                     \
  }
#define COMMA ,

// `of` the panels first .. first + count of several layers, laid end to end: those of the layer
// that begins after `before` of them.
INLINE int panels_in(Layer *l, size_t before, size_t first, size_t count) {
  return part_of(panels_of(l), before, first, count, &l->first, &l->end);
}

// o0 f32 [m][n0], its columns of `count` panels from `first`, its rows of `rows` from `row`.
KERNEL(quantized_matmul) {
  const Rows x = {q, s, c, k, group};
  Layer l = LAYER(0);
  const size_t until = row + rows < m ? row + rows : m;
  if (panels_in(&l, 0, first, count)) matmul(&x, &l, row, until);
}

KERNEL(quantized_gated_matmul) {
  const Rows x = {q, s, c, k, group};
  Layer gates = {.w = w0, .ws = s0, .out = o0, .n = n0};
  const Layer ups = {.w = w1, .ws = s1, .n = n0};
  const size_t until = row + rows < m ? row + rows : m;
  if (panels_in(&gates, 0, first, count)) gated(&x, &gates, &ups, activation, row, until);
}

// One row of activations by several layers' panels, of which first .. first + count are this
// workgroup's. Each workgroup norms and quantises the row for itself, which costs less than another
// dispatch.
#define ROW(norm, x)                      \
  int8_t q[MAX_FUSED_K];                  \
  float s[MAX_FUSED_K / BLOCK];           \
  int32_t c[MAX_FUSED_K / SPAN];          \
  quantize(norm, x, q, s, c, 1, k, 0, 1); \
  const Rows rows = {q, s, c, k, group};

#define MATVEC(parts, list)                                                   \
  KERNEL(quantized_matvec##parts) {                                           \
    const Norm of = {folds, norm, eps};                                       \
    ROW(&of, x)                                                               \
    Layer l[] = {list};                                                       \
    for (size_t before = 0, i = 0; i < parts; before += panels_of(l + i++))   \
      if (panels_in(l + i, before, first, count)) matmul(&rows, l + i, 0, 1); \
  }

MATVEC(1, LAYER(0))
MATVEC(2, LAYER(0) COMMA LAYER(1))
MATVEC(3, LAYER(0) COMMA LAYER(1) COMMA LAYER(2))

KERNEL(quantized_gated_matvec) {
  const Norm of = {folds, norm, eps};
  ROW(&of, x)
  Layer gates = {.w = w0, .ws = s0, .out = o0, .n = n0};
  const Layer ups = {.w = w1, .ws = s1, .n = n0};
  if (panels_in(&gates, 0, first, count)) gated(&rows, &gates, &ups, activation, 0, 1);
}

#include "quantized_grouped.h"
