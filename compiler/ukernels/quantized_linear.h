// Linear layers over int8 and int4 weights, for all feature levels. A level's .c file
// defines the primitives below and includes this file.
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
//   dot_pair(acc, lo, hi, p, q)  acc += w[n][j] * p[j], and * q[j], j = 0..7: 0..3 in lo, 4..7 in
//   hi add_pair(a, b, acc)        a and b, vi, += what acc has of p, and of q quantize_block(x, q,
//   s)    32 floats to int8; stores the scale, returns the sum

#include "fold.h"

#define ZERO4 8
#define AHEAD 2048  // bytes of weights, of a single row's product

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

// Rows of activations as integers, and the shape of what is multiplied by them.
typedef struct {
  const int8_t *q;   // [m][k]
  const float *s;    // [m][k / BLOCK]
  const int32_t *c;  // the same
  size_t k, group;
} Rows;

// What a workgroup does of one layer of n features: panels first .. end.
typedef struct {
  const uint8_t *w;
  const uint16_t *ws;
  float *out;
  size_t n, first, end;
  Fold fold;
} Layer;

INLINE size_t panels_of(const Layer *l) { return (l->n + PANEL - 1) / PANEL; }

// Rows m0 .. m1 by panel p, to out, `stride` apart from row 0 on, whose first column is the
// panel's.
INLINE void panel(const int bits, const int zeros, const Rows *x, const Layer *l, size_t p,
                  float *out, size_t stride, size_t m0, size_t m1) {
  const size_t k = x->k, blocks = k / BLOCK, groups = k / x->group;
  const uint8_t *wp = l->w + p * PANEL * k * bits / 8;
  const uint16_t *sp = l->ws + p * PANEL * groups;
  const uint16_t *zp = sp + panels_of(l) * PANEL * groups;
  const size_t width = l->n - p * PANEL < PANEL ? l->n - p * PANEL : PANEL;
  size_t m = m0;
#define ROWS_OF_TILE(rows)                                                                  \
  for (; m + (rows) <= m1; m += (rows))                                                     \
    tile(rows, bits, zeros, x->q + m * k, x->s + m * blocks, x->c + m * blocks, wp, sp, zp, \
         out + m * stride, stride, width, k, x->group);
  ROWS_OF_TILE(ROWS)
  if (ROWS > 4) ROWS_OF_TILE(ROWS > 4 ? 4 : 1)
  ROWS_OF_TILE(2)
  ROWS_OF_TILE(1)
#undef ROWS_OF_TILE
}

INLINE void matmul(const int bits, const int zeros, const Rows *x, const Layer *l, size_t m0,
                   size_t m1) {
  for (size_t p = l->first; p < l->end; ++p) {
    const size_t column = p * PANEL, until = column + PANEL < l->n ? column + PANEL : l->n;
    panel(bits, zeros, x, l, p, l->out + column, l->n, m0, m1);
    fold(&l->fold, l->out, l->n, m0, m1, column, until);
  }
}

// activation(gate) * up, to the gate's `out`: a panel of the one, then the same of the other.
INLINE void gated(const int bits, const int zeros, const Rows *x, const Layer *gates,
                  const Layer *ups, size_t activation, size_t m0, size_t m1) {
  ALIGNED float up[MOST_ROWS * PANEL];
  const size_t n = gates->n;
  for (size_t p = gates->first; p < gates->end; ++p) {
    const size_t column = p * PANEL, width = n - column < PANEL ? n - column : PANEL;
    panel(bits, zeros, x, gates, p, gates->out + column, n, m0, m1);
    panel(bits, zeros, x, ups, p, up - m0 * PANEL, PANEL, m0, m1);
    gate(activation, gates->out + m0 * n + column, n, up, PANEL, m1 - m0, width);
  }
}

// A row to integers, normed or not.
INLINE void quantize_row(const Norm *norm, const float *x, int8_t *q, float *s, int32_t *c,
                         size_t k, int32_t zero) {
  const float factor = norm->folds & NORM ? norm_factor(norm, x, k) : 1.0f;
  for (size_t b = 0; b < k / BLOCK; ++b) {
    ALIGNED float values[BLOCK];
    const float *from = x + b * BLOCK;
    if (norm->folds & NORM) {
      for (size_t d = 0; d < BLOCK; d += WIDE)
        store_wide(values + d, normed(norm, factor, x, b * BLOCK + d), WIDE);
      from = values;
    }
    c[b] = -zero * quantize_block(from, q + b * BLOCK, s + b);
  }
}

INLINE void quantize_rows(const int bits, const Norm *norm, const float *x, int8_t *q, float *s,
                          int32_t *c, size_t m, size_t k, size_t row, size_t count) {
  const size_t end = row + count < m ? row + count : m, blocks = k / BLOCK;
  for (size_t r = row; r < end; ++r)
    quantize_row(norm, x + r * k, q + r * k, s + r * blocks, c + r * blocks, k,
                 bits == 8 ? ZERO8 : ZERO4);
}

// Each form once: what is exported below calls it.
#define FORMS(name, bits, zeros)                                                                  \
  APART void matmul_##name(const Rows *x, const Layer *l, size_t m0, size_t m1) {                 \
    matmul(bits, zeros, x, l, m0, m1);                                                            \
  }                                                                                               \
  APART void gated_##name(const Rows *x, const Layer *gates, const Layer *ups, size_t activation, \
                          size_t m0, size_t m1) {                                                 \
    gated(bits, zeros, x, gates, ups, activation, m0, m1);                                        \
  }

FORMS(i8, 8, 0)
FORMS(i4, 4, 0)
FORMS(i4z, 4, 1)

// Rows row .. row + count (at most m) of x f32 [m][k], normed by `norm` f32 [k] or not, to q i8
// [m][k], s f32 and c i32 [m][k / 32].
#define QUANTIZE(bits)                                      \
  KERNEL(quantize_rows_i##bits) {                           \
    const Norm of = {folds, norm, eps};                     \
    quantize_rows(bits, &of, x, q, s, c, m, k, row, count); \
  }

QUANTIZE(8)
QUANTIZE(4)

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
#define MATMUL(name)                                                       \
  KERNEL(quantized_matmul_##name) {                                        \
    const Rows x = {q, s, c, k, group};                                    \
    Layer l = LAYER(0);                                                    \
    const size_t until = row + rows < m ? row + rows : m;                  \
    if (panels_in(&l, 0, first, count)) matmul_##name(&x, &l, row, until); \
  }                                                                        \
  KERNEL(quantized_gated_matmul_##name) {                                  \
    const Rows x = {q, s, c, k, group};                                    \
    Layer gates = {.w = w0, .ws = s0, .out = o0, .n = n0};                 \
    const Layer ups = {.w = w1, .ws = s1, .n = n0};                        \
    const size_t until = row + rows < m ? row + rows : m;                  \
    if (panels_in(&gates, 0, first, count))                                \
      gated_##name(&x, &gates, &ups, activation, row, until);              \
  }

// One row of activations by several layers' panels, of which first .. first + count are this
// workgroup's. Each workgroup norms and quantises the row for itself, which costs less than another
// dispatch.
#define ROW(bits)                                   \
  int8_t q[MAX_FUSED_K];                            \
  float s[MAX_FUSED_K / BLOCK];                     \
  int32_t c[MAX_FUSED_K / BLOCK];                   \
  const Norm of = {folds, norm, eps};               \
  quantize_rows(bits, &of, x, q, s, c, 1, k, 0, 1); \
  const Rows rows = {q, s, c, k, group};

#define MATVEC(parts, name, bits, list)                                              \
  KERNEL(quantized_matvec##parts##_##name) {                                         \
    ROW(bits)                                                                        \
    Layer l[] = {list};                                                              \
    for (size_t before = 0, i = 0; i < parts; before += panels_of(l + i++))          \
      if (panels_in(l + i, before, first, count)) matmul_##name(&rows, l + i, 0, 1); \
  }

#define GATED_MATVEC(name, bits)                                                                 \
  KERNEL(quantized_gated_matvec_##name) {                                                        \
    ROW(bits)                                                                                    \
    Layer gates = {.w = w0, .ws = s0, .out = o0, .n = n0};                                       \
    const Layer ups = {.w = w1, .ws = s1, .n = n0};                                              \
    if (panels_in(&gates, 0, first, count)) gated_##name(&rows, &gates, &ups, activation, 0, 1); \
  }

#define EACH_FORM(name, bits)                                   \
  MATMUL(name)                                                  \
  MATVEC(1, name, bits, LAYER(0))                               \
  MATVEC(2, name, bits, LAYER(0) COMMA LAYER(1))                \
  MATVEC(3, name, bits, LAYER(0) COMMA LAYER(1) COMMA LAYER(2)) \
  GATED_MATVEC(name, bits)

EACH_FORM(i8, 8)
EACH_FORM(i4, 4)
EACH_FORM(i4z, 4)

#include "quantized_grouped.h"
