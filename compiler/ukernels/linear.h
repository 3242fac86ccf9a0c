// Linear layers over f32, f16 and bf16 weights, for all feature levels. A level's .c file states
// the sizes of its registers and tiles and includes this file; vectors are clang's.
//
// Weights are read as a checkpoint has them: [n][k]. Nothing is packed ahead of time, so that an
// artifact's weights serve generated code, embedding lookups and these kernels alike. Products and
// sums are f32. Up to FEW rows of activations, the weights are read once, along their rows. More
// rows are first turned into panels, `linear_pack`, in which a vector holds one column of
// them; a tile of weights is widened into the first-level cache and multiplied by each panel.
//
// k is a multiple of STEP.
//
// A level defines:
//   LANES         f32 in a register
//   TILE_ROWS     rows of weights in a register tile
//   TILE_VECTORS  vectors of activations beside them
//   FEW_SUMS      sums in registers with few rows: rows of weights times rows of activations

#include "fold.h"
#include "vector.h"

#define CHAINS 4                     // sums of one row by one row
#define AHEAD 6144                   // bytes, with one row of activations
#define TILE (LANES * TILE_VECTORS)  // rows of activations in a register tile: whole panels
#define DEPTH 256                    // columns of a widened tile of weights
#define STRIDE (DEPTH + 16)          // of its rows: apart in the sets of a cache
#define STRIP 64                     // rows of a gate's weights at a time, with few rows
typedef float v4 __attribute__((ext_vector_type(4)));
typedef v4 v4_any __attribute__((aligned(4)));

INLINE float sum(vf v) {
  v4 parts[LANES / 4], four;
  __builtin_memcpy_inline(parts, &v, sizeof v);
  four = parts[0];
#pragma unroll
  for (int i = 1; i < LANES / 4; ++i) four += parts[i];
  return (four.x + four.z) + (four.y + four.w);
}

// `rows` rows of weights by m rows of activations; `most`, a constant, is m or a little more. Then
// the last of them is multiplied again in place of those that are not there.
INLINE void few_tile(const int kind, const int rows, const int most, size_t m, const float *x,
                     const char *w, float *out, size_t n, size_t k) {
  const size_t bytes = k * size_of(kind);
  const float *from[FEW];
  // A row by a row has several sums: the next multiply-add need not wait for the last.
  const int chains = rows * most > 1 ? 1 : CHAINS;
  vf sums[FEW_ROWS][FEW], chain[CHAINS];
#pragma unroll
  for (int c = 0; c < CHAINS; ++c) chain[c] = splat(0.0f);
#pragma unroll
  for (int r = 0; r < most; ++r) {
    from[r] = x + ((size_t)r < m ? (size_t)r : m - 1) * k;
#pragma unroll
    for (int i = 0; i < rows; ++i) sums[i][r] = splat(0.0f);
  }
  for (size_t d = 0; d < k; d += STEP) {
    // What comes later is asked for meanwhile: hardware looks ahead less, and not past a page.
    const size_t ahead = chains > 1 ? AHEAD : rows * bytes;
#pragma unroll
    for (int i = 0; i < rows; ++i)
#pragma unroll
      for (size_t b = 0; b < STEP * size_of(kind); b += 64)
        __builtin_prefetch(w + ahead + i * bytes + d * size_of(kind) + b, 0, 2);
#pragma unroll
    for (int s = 0; s < STEP; s += LANES) {
      vf v[FEW_ROWS];
#pragma unroll
      for (int i = 0; i < rows; ++i) v[i] = load_as(kind, w + i * bytes, d + s);
#pragma unroll
      for (int r = 0; r < most; ++r) {
        const vf a = load(from[r] + d + s);
#pragma unroll
        for (int i = 0; i < rows; ++i) {
          vf *const to = chains > 1 ? chain + s / LANES % CHAINS : sums[i] + r;
          *to = v[i] * a + *to;
        }
      }
    }
  }
  if (chains > 1) sums[0][0] = (chain[0] + chain[1]) + (chain[2] + chain[3]);
#pragma unroll
  for (int r = 0; r < most; ++r)
    if ((size_t)r < m)
#pragma unroll
      for (int i = 0; i < rows; ++i) out[r * n + i] = sum(sums[i][r]);
}

// What a workgroup does of one layer.
typedef struct {
  const char *w;
  float *out;
  size_t n, first, end;  // rows of weights
  Fold fold;
  const char *up;  // of a gate: the other layer's weights, or null
  size_t activation;
} Part;

INLINE void few_of(const int kind, const int most, size_t m, const float *x, const Part *p,
                   size_t k) {
  // A single row takes the weights as they lie: one stream, which hardware follows.
  const int fitting = FEW_SUMS / most >= FEW_ROWS ? FEW_ROWS : FEW_SUMS / most > 1 ? 2 : 1;
  const int rows = most == 1 ? 1 : fitting;
  const size_t bytes = k * size_of(kind);
  size_t i = p->first;
  for (; i + rows <= p->end; i += rows)
    few_tile(kind, rows, most, m, x, p->w + i * bytes, p->out + i, p->n, k);
  for (; i < p->end; ++i) few_tile(kind, 1, most, m, x, p->w + i * bytes, p->out + i, p->n, k);
}

INLINE void few_rows(const int kind, const float *x, const Part *p, size_t m, size_t k) {
  if (m == 1) few_of(kind, 1, m, x, p, k);
  else if (m == 2) few_of(kind, 2, m, x, p, k);
  else if (m <= 4) few_of(kind, 4, m, x, p, k);
  else few_of(kind, FEW, m, x, p, k);
}

APART void few_F32(const float *x, const Part *p, size_t m, size_t k) { few_rows(F32, x, p, m, k); }
APART void few_F16(const float *x, const Part *p, size_t m, size_t k) { few_rows(F16, x, p, m, k); }
APART void few_BF16(const float *x, const Part *p, size_t m, size_t k) {
  few_rows(BF16, x, p, m, k);
}

// to[j][i] = from[i][j], four by four.
INLINE void turn(const float *from, size_t step, float *to, size_t stride) {
  const v4 a = *(const v4_any *)from, b = *(const v4_any *)(from + step),
           c = *(const v4_any *)(from + 2 * step), d = *(const v4_any *)(from + 3 * step);
  const v4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
           cd = __builtin_shufflevector(c, d, 0, 4, 1, 5),
           ba = __builtin_shufflevector(a, b, 2, 6, 3, 7),
           dc = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  *(v4_any *)to = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
  *(v4_any *)(to + stride) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  *(v4_any *)(to + 2 * stride) = __builtin_shufflevector(ba, dc, 0, 1, 4, 5);
  *(v4_any *)(to + 3 * stride) = __builtin_shufflevector(ba, dc, 2, 3, 6, 7);
}

// Columns d0 .. d1 of a panel of x [m][k], normed or not: [k][PANEL], zero for rows that are not
// there. Normed columns are at most MOST_COLUMNS.
INLINE void pack(const Norm *norm, const float *x, float *to, size_t m, size_t k, size_t panel,
                 size_t d0, size_t d1) {
  to += panel * PANEL * k;
  for (size_t r = 0; r < PANEL; r += 4) {
    const size_t row = panel * PANEL + r;
    if (norm->folds & NORM) {
      ALIGNED float rows[4 * MOST_COLUMNS];
      for (size_t i = 0; i < 4; ++i) {
        const float *const from = x + (row + i) * k;
        const float factor = row + i < m ? norm_factor(norm, from, k) : 0.0f;
        for (size_t d = d0; d < d1; d += WIDE)
          store_wide(rows + i * MOST_COLUMNS + d - d0,
                     row + i < m ? normed(norm, factor, from, d) : (wide)0.0f, WIDE);
      }
      for (size_t d = d0; d < d1; d += 4)
        turn(rows + d - d0, MOST_COLUMNS, to + d * PANEL + r, PANEL);
    } else if (row + 4 <= m) {
      for (size_t d = d0; d < d1; d += 4) turn(x + row * k + d, k, to + d * PANEL + r, PANEL);
    } else {
      for (size_t i = 0; i < 4; ++i)
        for (size_t d = d0; d < d1; ++d)
          to[d * PANEL + r + i] = row + i < m ? x[(row + i) * k + d] : 0.0f;
    }
  }
}

// sums[i][rows of x] of the widened rows of weights; added to what is there unless `fresh`. x has
// panels that are `next` elements apart.
INLINE void tile(const int vectors, const float *x, size_t next, const float *w, float *sums,
                 size_t depth, int fresh) {
  vf sum[TILE_ROWS][TILE_VECTORS];
#pragma unroll
  for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
    for (int v = 0; v < vectors; ++v)
      sum[i][v] = fresh ? splat(0.0f) : load(sums + i * TILE + v * LANES);
  for (size_t d = 0; d < depth; ++d) {
    vf a[TILE_VECTORS];
#pragma unroll
    for (int v = 0; v < vectors; ++v)
      a[v] = load(x + v * LANES / PANEL * next + d * PANEL + v * LANES % PANEL);
#pragma unroll
    for (int i = 0; i < TILE_ROWS; ++i) {
      const vf b = splat(w[i * STRIDE + d]);
#pragma unroll
      for (int v = 0; v < vectors; ++v) sum[i][v] = b * a[v] + sum[i][v];
    }
  }
#pragma unroll
  for (int i = 0; i < TILE_ROWS; ++i)
#pragma unroll
    for (int v = 0; v < vectors; ++v) store(sums + i * TILE + v * LANES, sum[i][v]);
}

// Rows of a tile of weights as f32; those past the last are zero. The next tile is asked for.
INLINE void widen(const int kind, const char *w, size_t bytes, size_t rows, size_t depth,
                  float *to) {
  for (size_t i = 0; i < TILE_ROWS; ++i) {
    for (size_t b = 0; b < depth * size_of(kind); b += 64)
      __builtin_prefetch(w + (TILE_ROWS + i) * bytes + b, 0, 2);
    for (size_t d = 0; d < depth; d += LANES)
      store(to + i * STRIDE + d, i < rows ? load_as(kind, w + i * bytes, d) : splat(0.0f));
  }
}

// Rows first .. end of the weights by rows row .. until of activations, at most MOST_ROWS, of which
// x has the panels; `row` is a whole number of panels. The rows of weights, of a gate those of both
// layers, are at most MOST_WEIGHTS.
INLINE void many_rows(const int kind, const float *x, const Part *p, size_t k, size_t row,
                      size_t until) {
  ALIGNED float sums[MOST_WEIGHTS * MOST_ROWS], wide_tile[TILE_ROWS * STRIDE];
  const size_t bytes = k * size_of(kind), tiles = (until - row + TILE - 1) / TILE;
  const size_t size = (p->end - p->first + TILE_ROWS - 1) / TILE_ROWS * tiles * TILE_ROWS * TILE;
  const float *const first = x + row * k;
  for (size_t d = 0; d < k; d += DEPTH) {
    const size_t depth = k - d < DEPTH ? k - d : DEPTH;
    float *at = sums;
    for (const char *w = p->w; w; w = w == p->w ? p->up : NULL)
      for (size_t i = p->first; i < p->end; i += TILE_ROWS) {
        const size_t rows = p->end - i < TILE_ROWS ? p->end - i : TILE_ROWS;
        widen(kind, w + i * bytes + d * size_of(kind), bytes, rows, depth, wide_tile);
        for (size_t q = 0; q < tiles; ++q, at += TILE_ROWS * TILE) {
          const float *a = first + q * TILE * k + d * PANEL;
          if (until - row - q * TILE <= LANES) tile(1, a, PANEL * k, wide_tile, at, depth, d == 0);
          else tile(TILE_VECTORS, a, PANEL * k, wide_tile, at, depth, d == 0);
        }
      }
  }
  if (p->up) gate(p->activation, sums, 0, sums + size, 0, 1, size);
  const float *at = sums;
  for (size_t i = p->first; i < p->end; i += TILE_ROWS) {
    const size_t rows = p->end - i < TILE_ROWS ? p->end - i : TILE_ROWS;
    for (size_t q = 0; q < tiles; ++q, at += TILE_ROWS * TILE) {
      const size_t m = row + q * TILE, count = until - m < TILE ? until - m : TILE;
      float *out = p->out + m * p->n + i;
      size_t c = 0;
      for (; c + 4 <= rows; c += 4) {
        size_t r = 0;
        for (; r + 4 <= count; r += 4) turn(at + c * TILE + r, TILE, out + r * p->n + c, p->n);
        for (; r < count; ++r)
          for (size_t j = 0; j < 4; ++j) out[r * p->n + c + j] = at[(c + j) * TILE + r];
      }
      for (; c < rows; ++c)
        for (size_t r = 0; r < count; ++r) out[r * p->n + c] = at[c * TILE + r];
    }
  }
}

APART void many_F32(const float *x, const Part *p, size_t k, size_t row, size_t until) {
  many_rows(F32, x, p, k, row, until);
}
APART void many_F16(const float *x, const Part *p, size_t k, size_t row, size_t until) {
  many_rows(F16, x, p, k, row, until);
}
APART void many_BF16(const float *x, const Part *p, size_t k, size_t row, size_t until) {
  many_rows(BF16, x, p, k, row, until);
}

INLINE void few_of_kind(const int kind, const float *x, const Part *p, size_t m, size_t k) {
  (kind == F32 ? few_F32 : kind == F16 ? few_F16 : few_BF16)(x, p, m, k);
}

INLINE void many_of_kind(const int kind, const float *x, const Part *p, size_t k, size_t row,
                         size_t until) {
  (kind == F32 ? many_F32 : kind == F16 ? many_F16 : many_BF16)(x, p, k, row, until);
}

// x, or its rows normed in `to`: a few rows are that again in every workgroup, which costs less
// than a dispatch of its own.
INLINE const float *few_normed(const Norm *norm, const float *x, float *to, size_t m, size_t k) {
  if (!(norm->folds & NORM)) return x;
  for (size_t r = 0; r < m; ++r) {
    const float factor = norm_factor(norm, x + r * k, k);
    for (size_t d = 0; d < k; d += WIDE)
      store_wide(to + r * k + d, normed(norm, factor, x + r * k, d), WIDE);
  }
  return to;
}

INLINE void few_parts(const int kind, const Norm *norm, const float *x, Part *p, int parts,
                      size_t m, size_t k, size_t first, size_t count) {
  ALIGNED float rows[MOST_NORMED];
  x = few_normed(norm, x, rows, m, k);
  for (size_t before = 0, i = 0; i < (size_t)parts; before += p[i++].n)
    if (part_of(p[i].n, before, first, count, &p[i].first, &p[i].end)) {
      few_of_kind(kind, x, p + i, m, k);
      fold(&p[i].fold, p[i].out, p[i].n, 0, m, p[i].first, p[i].end);
    }
}

INLINE void many_parts(const int kind, const float *x, Part *p, int parts, size_t m, size_t k,
                       size_t first, size_t count, size_t row, size_t rows) {
  const size_t until = row + rows < m ? row + rows : m;
  for (size_t before = 0, i = 0; i < (size_t)parts; before += p[i++].n)
    if (part_of(p[i].n, before, first, count, &p[i].first, &p[i].end)) {
      many_of_kind(kind, x, p + i, k, row, until);
      fold(&p[i].fold, p[i].out, p[i].n, row, until, p[i].first, p[i].end);
    }
}

// activation(gate) * up, for rows first .. first + count of both layers' weights.
INLINE void few_gated(const int kind, const Norm *norm, const float *x, const char *w0,
                      const char *w1, float *out, size_t m, size_t n, size_t k, size_t activation,
                      size_t first, size_t count) {
  ALIGNED float rows[MOST_NORMED], ups[FEW * STRIP];
  const size_t end = first + count < n ? first + count : n;
  x = few_normed(norm, x, rows, m, k);
  for (size_t i = first; i < end; i += STRIP) {
    const size_t until = i + STRIP < end ? i + STRIP : end;
    const Part gates = {.w = w0, .out = out, .n = n, .first = i, .end = until};
    const Part up = {.w = w1, .out = ups - i, .n = STRIP, .first = i, .end = until};
    few_of_kind(kind, x, &gates, m, k);
    few_of_kind(kind, x, &up, m, k);
    gate(activation, out + i, n, ups, STRIP, m, until - i);
  }
}

#define PART(i)                                                            \
  {(const char *)w##i,                                                     \
   o##i,                                                                   \
   n##i,                                                                   \
   0,                                                                      \
   0,                                                                      \
   {folds & BIAS << i ? b##i : NULL, folds & ADDED ? added : NULL, alpha}, \
   NULL,                                                                   \
   0}
#define COMMA ,

// `few`: o0 f32 [m][n0] of x f32 [m][k], m at most FEW. `many`: the same of the panels of x, rows
// row .. row + rows. Both: rows first .. first + count of the layers' weights [n][k]. `norm` f32
// [k] and `eps` are of the rows, biases f32 [n]; `added`, f32 [m][n], is for a layer alone.
#define LINEAR(parts, name, kind, list)                           \
  KERNEL(linear##parts##_few_##name) {                            \
    const Norm of = {folds, norm, eps};                           \
    Part p[] = {list};                                            \
    few_parts(kind, &of, x, p, parts, m, k, first, count);        \
  }                                                               \
  KERNEL(linear##parts##_many_##name) {                           \
    Part p[] = {list};                                            \
    many_parts(kind, x, p, parts, m, k, first, count, row, rows); \
  }

// The same for two layers of n0 features, the second times the activation of the first.
#define GATED(name, kind)                                                                        \
  KERNEL(linear_gated_few_##name) {                                                              \
    const Norm of = {folds, norm, eps};                                                          \
    few_gated(kind, &of, x, (const char *)w0, (const char *)w1, o0, m, n0, k, activation, first, \
              count);                                                                            \
  }                                                                                              \
  KERNEL(linear_gated_many_##name) {                                                             \
    Part p = {.w = (const char *)w0,                                                             \
              .up = (const char *)w1,                                                            \
              .out = o0,                                                                         \
              .n = n0,                                                                           \
              .activation = activation};                                                         \
    many_parts(kind, x, &p, 1, m, k, first, count, row, rows);                                   \
  }

#define EACH_FORM(name, kind)                                \
  LINEAR(1, name, kind, PART(0))                             \
  LINEAR(2, name, kind, PART(0) COMMA PART(1))               \
  LINEAR(3, name, kind, PART(0) COMMA PART(1) COMMA PART(2)) \
  GATED(name, kind)

EACH_FORM(f32, F32)
EACH_FORM(f16, F16)
EACH_FORM(bf16, BF16)

// Columns column .. column + columns of rows row .. row + rows of x f32 [m][k], to panels
// f32 [m rounded up to 16][k]; `row` and `rows` are whole panels.
INLINE void pack_rows(const Norm *norm, const float *x, float *to, size_t m, size_t k, size_t row,
                      size_t rows, size_t column, size_t columns) {
  const size_t end = row + rows < m ? row + rows : m;
  const size_t until = column + columns < k ? column + columns : k;
  for (; row < end; row += PANEL) pack(norm, x, to, m, k, row / PANEL, column, until);
}

KERNEL(linear_pack) {
  const Norm of = {folds, norm, eps};
  pack_rows(&of, x, to, m, k, row, rows, column, columns);
}

#include "linear_grouped.h"
