// Causal attention of a block of tokens over a cache, for all feature levels. A level's .c file
// states the sizes of its register tiles and includes this file; vectors are clang's, so that one
// source serves them all.
//
// A workgroup has one head of the cache, `per` of the query heads that share it and `span` tokens,
// and goes through the rows of the cache in blocks with a running softmax: a block is read once for
// all of them, converted to f32 where it lies in the first-level cache.
//
// Buffers:
//   query   f32 [heads][tokens][width]
//   key     [capacity][kv_heads][width], f32, f16, bf16 or i8
//   value   [capacity][kv_heads][value_width], of the same type; position p is in row p % capacity
//   key_scales, value_scales  f32 [capacity][kv_heads]: factors of the rows; read if these are i8
//   sinks   f32 [heads]: logits that take part in the sum and have no value; read if has_sinks
//   out     f32 [tokens][heads][value_width]
//
// A level defines:
//   TILE_DEPTH     rows of the cache, or query rows, in registers at a time: a divisor of 16
//   TILE_VECTORS   vectors of 16 beside each
//   FEW_DEPTH      the same with few query rows, of which two are in registers: rows of the cache
//   FEW_VECTORS    vectors of the values

#include "power_of_two.h"
#include "vector.h"

#define DEPTH 32    // rows of the cache in a block
#define DEEP 64     // in the blocks that many query rows take at a time
#define FEW_ROWS 8  // up to here a row has vectors of its own instead of a lane
#define HIDDEN -1e30f

typedef int32_t vi __attribute__((ext_vector_type(LANES)));

typedef struct {
  const float *query, *sinks;
  float *out;
  size_t tokens, heads, kv_heads, width, value_width, window, capacity;
  float scale, softcap;
  size_t start, head, per, token, rows;  // of this workgroup: rows = per * its tokens
} Call;

INLINE float sum(vf v) {
  typedef float v8 __attribute__((ext_vector_type(8)));
  typedef float v4 __attribute__((ext_vector_type(4)));
  const v8 eight = v.lo + v.hi;
  const v4 four = eight.lo + eight.hi;
  return (four.x + four.z) + (four.y + four.w);
}

// The sums of FEW_DEPTH vectors, four at a time.
INLINE void add_lanes(const vf *v, float *to) {
  typedef float v8 __attribute__((ext_vector_type(8)));
  typedef float v4 __attribute__((ext_vector_type(4)));
  typedef v4 v4_any __attribute__((aligned(4)));
#pragma unroll
  for (int i = 0; i < FEW_DEPTH; i += 4) {
    v4 f[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const v8 eight = v[i + j].lo + v[i + j].hi;
      f[j] = eight.lo + eight.hi;
    }
    const v4 a = __builtin_shufflevector(f[0], f[1], 0, 4, 2, 6) +
                 __builtin_shufflevector(f[0], f[1], 1, 5, 3, 7);
    const v4 b = __builtin_shufflevector(f[2], f[3], 0, 4, 2, 6) +
                 __builtin_shufflevector(f[2], f[3], 1, 5, 3, 7);
    *(v4_any *)(to + i) =
        __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
  }
}

// Of two vectors; what clang has for that takes care of NaN, in three instructions.
INLINE vf larger(vf a, vf b) { return a > b ? a : b; }

INLINE float largest(vf v) {
  v = larger(v, v.s89abcdef89abcdef);
  v = larger(v, v.s4567456745674567);
  v = larger(v, v.s2323232323232323);
  return larger(v, v.s1111111111111111)[0];
}

// softcap * tanh(x / softcap)
INLINE vf capped(vf x, float softcap) {
  const vf y = x * splat(1.0f / softcap);
  const vf magnitude = __builtin_elementwise_abs(y);
  const vf e = power_of_two(magnitude * splat(-2.0f * LOG2E));
  const vf t = (splat(1.0f) - e) / (splat(1.0f) + e);
  return splat(softcap) * (y < splat(0.0f) ? -t : t);
}

// Scores as the softmax takes them, exponents of two, of dot products times `scale` of Scratch;
// `row` and `position` are of cache and query.
INLINE vf visible(const Call *c, vf score, vi row, vi position, int masked) {
  if (c->softcap != 0.0f) score = capped(score, c->softcap) * splat(LOG2E);
  if (!masked) return score;
  const vi near = c->window ? row + (vi)(int32_t)c->window > position : (vi)-1;
  return ((row <= position) & near) ? score : splat(HIDDEN);
}

// sums[i][v] += left[i * stride + d * step] * right[d][v] for `depth` d. Rows of `right` are as
// long as the tile is wide; the constants size the register tile.
INLINE void multiply(const int vectors, const float *left, size_t stride, size_t step,
                     const float *right, size_t depth, vf sums[TILE_DEPTH][TILE_VECTORS]) {
  for (size_t d = 0; d < depth; ++d) {
    vf r[TILE_VECTORS];
#pragma unroll
    for (int v = 0; v < vectors; ++v) r[v] = load(right + (d * vectors + v) * LANES);
#pragma unroll
    for (int i = 0; i < TILE_DEPTH; ++i) {
      const vf l = splat(left[i * stride + d * step]);
#pragma unroll
      for (int v = 0; v < vectors; ++v) sums[i][v] = l * r[v] + sums[i][v];
    }
  }
}

// Scores with query rows in lanes: scores[m][lane] = keys[m][d] * turned[d][lane].
INLINE void score_tile(const int vectors, const float *keys, const float *turned, float *scores,
                       size_t width) {
  vf sums[TILE_DEPTH][TILE_VECTORS];
#pragma unroll
  for (int i = 0; i < TILE_DEPTH; ++i)
#pragma unroll
    for (int v = 0; v < vectors; ++v) sums[i][v] = splat(0.0f);
  multiply(vectors, keys, width, 1, turned, width, sums);
#pragma unroll
  for (int i = 0; i < TILE_DEPTH; ++i)
#pragma unroll
    for (int v = 0; v < vectors; ++v) store(scores + i * MAX_ROWS + v * LANES, sums[i][v]);
}

// out[row] = out[row] * factor[row] + `depth` rows of values by their weights; `fresh`: the first.
INLINE void value_tile(const int vectors, float *const *out, const float *factors,
                       const float *weights, const float *values, size_t depth, size_t column,
                       int fresh) {
  vf sums[TILE_DEPTH][TILE_VECTORS];
#pragma unroll
  for (int i = 0; i < TILE_DEPTH; ++i)
#pragma unroll
    for (int v = 0; v < vectors; ++v)
      sums[i][v] = fresh ? splat(0.0f) : load(out[i] + column + v * LANES) * splat(factors[i]);
  multiply(vectors, weights, 1, MAX_ROWS, values, depth, sums);
#pragma unroll
  for (int i = 0; i < TILE_DEPTH; ++i)
#pragma unroll
    for (int v = 0; v < vectors; ++v) store(out[i] + column + v * LANES, sums[i][v]);
}

// On the stack, of which IREE's threads have 128 KB.
typedef struct {
  // Many rows: keys of a tile, or values as wide as one, in f32. Small, so that they stay in the
  // first-level cache while the query and what is put out pass through it.
  float block[TILE_DEPTH * MAX_WIDTH];
  float query[MAX_QUERY];         // many rows: scaled, in tiles [width][lanes of a tile]
  float scores[DEEP * MAX_ROWS];  // many rows: [DEEP][MAX_ROWS]; few: [rows][DEPTH]
  float scale;                    // what makes dot products exponents of two
  float most[MAX_ROWS], total[MAX_ROWS], factor[MAX_ROWS];
  float scales[DEPTH];     // of an i8 block's rows
  float spare[MAX_WIDTH];  // what lanes without a row put out
  float *out[MAX_ROWS];
  const float *source[MAX_ROWS];  // the rows of the query
  int32_t position[MAX_ROWS];
} Scratch;
_Static_assert(DEEP *TILE_VECTORS <= TILE_DEPTH * MAX_WIDTH / LANES, "values wider than a block");

INLINE size_t lanes_of(const Call *c) { return (c->rows + LANES - 1) / LANES * LANES; }

// How many vectors the tile at `lane` of `lanes` has.
INLINE size_t tile_at(size_t lane, size_t lanes) {
  return lane + TILE_VECTORS * LANES <= lanes ? TILE_VECTORS : 1;
}

// to[j][i] = from[i][column + j] * scale, four by four.
INLINE void turn(const float *const *from, size_t column, float scale, float *to, size_t stride) {
  typedef float v4 __attribute__((ext_vector_type(4)));
  typedef v4 v4_any __attribute__((aligned(4)));
  const v4 a = *(const v4_any *)(from[0] + column) * scale,
           b = *(const v4_any *)(from[1] + column) * scale,
           c = *(const v4_any *)(from[2] + column) * scale,
           d = *(const v4_any *)(from[3] + column) * scale;
  const v4 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
           cd = __builtin_shufflevector(c, d, 0, 4, 1, 5),
           ba = __builtin_shufflevector(a, b, 2, 6, 3, 7),
           dc = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  *(v4_any *)to = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
  *(v4_any *)(to + stride) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  *(v4_any *)(to + 2 * stride) = __builtin_shufflevector(ba, dc, 0, 1, 4, 5);
  *(v4_any *)(to + 3 * stride) = __builtin_shufflevector(ba, dc, 2, 3, 6, 7);
}

INLINE void prepare(const Call *c, Scratch *s, int has_sinks) {
  const size_t lanes = lanes_of(c);
  s->scale = c->softcap != 0.0f ? c->scale : c->scale * LOG2E;
  for (size_t r = 0; r < lanes; ++r) {
    const size_t row = r < c->rows ? r : c->rows - 1;  // a lane without a row repeats the last
    const size_t head = c->head + row % c->per, token = c->token + row / c->per;
    s->source[r] = c->query + (head * c->tokens + token) * c->width;
    s->out[r] = r < c->rows ? c->out + (token * c->heads + head) * c->value_width : s->spare;
    s->position[r] = (int32_t)(c->start + token);
    s->most[r] = has_sinks ? c->sinks[head] * LOG2E : HIDDEN;
    s->total[r] = has_sinks ? 1.0f : 0.0f;
  }
  if (c->rows <= FEW_ROWS) {
    for (size_t r = 0; r < c->rows; ++r)
      for (size_t d = 0; d < c->value_width; d += LANES) store(s->out[r] + d, splat(0.0f));
    return;
  }
  for (size_t v = 0, vectors; v < lanes; v += vectors * LANES) {
    vectors = tile_at(v, lanes);
    for (size_t r = 0; r < vectors * LANES; r += 4)
      for (size_t d = 0; d < c->width; d += 4)
        turn(s->source + v + r, d, s->scale, s->query + v * c->width + d * vectors * LANES + r,
             vectors * LANES);
  }
}

// Of some rows of the cache, those that query rows in neighbouring lanes see: low..high, counted
// from the first. `masked`: not all lanes see all of them. `fresh`: no lane sees any before `low`.
typedef struct {
  size_t low, high;
  int masked, fresh;
} Seen;

INLINE Seen seen_by(const Call *c, const Scratch *s, size_t lane, size_t lanes, size_t first,
                    size_t rows) {
  // Lanes are in the order of tokens.
  const size_t early = s->position[lane], late = s->position[lane + lanes - 1];
  const size_t earliest = c->window && early >= c->window ? early + 1 - c->window : 0;
  const size_t begin = earliest > first ? earliest : first;
  const size_t end = first + rows < late + 1 ? first + rows : late + 1;
  const int masked = end > early + 1 || (c->window && begin + c->window <= late);
  return (Seen){begin - first, (end > begin ? end : begin) - first, masked, begin == earliest};
}

// A block's rows of the cache: `rows` of them, `step` bytes apart, and as many after them as
// `ahead`.
typedef struct {
  const char *first;
  size_t step, width, rows, ahead;
  const float *scales;  // of its rows, `apart` elements from each other, if i8
  size_t apart;
} Block;

INLINE const char *row_of(const Block *b, size_t m) { return b->first + m * b->step; }

// Some columns of the block's rows from..to as f32, without gaps. Those of the rows DEEP further
// are asked for.
INLINE void widen(const int kind, const Block *b, size_t from, size_t to, size_t column,
                  const size_t columns, float *wide) {
  const size_t first = column * size_of(kind), end = (column + columns) * size_of(kind);
  for (size_t m = from; m < to && m < b->rows; ++m) {
    const char *row = row_of(b, m);
    if (m < b->ahead)
      for (size_t i = first; i < end; i += 64) __builtin_prefetch(row + DEEP * b->step + i, 0, 2);
    const vf scale = splat(kind == I8 ? b->scales[m * b->apart] : 1.0f);
    for (size_t d = 0; d < columns; d += LANES, wide += LANES) {
      const vf values = load_as(kind, row, column + d);
      store(wide, kind == I8 ? values * scale : values);
    }
  }
}

// A query row in a lane: nothing is summed across lanes. `rows` of the cache from `first` on.
INLINE void many_scores(const int kind, const Call *c, Scratch *s, const Block *k, size_t first,
                        size_t rows) {
  const size_t lanes = lanes_of(c);
  for (size_t m = 0; m < rows; m += TILE_DEPTH) {
    // The scores of rows past the last are of what was there before, and not looked at.
    widen(kind, k + m / DEPTH, m % DEPTH, m % DEPTH + TILE_DEPTH, 0, c->width, s->block);
    for (size_t v = 0, vectors; v < lanes; v += vectors * LANES) {
      vectors = tile_at(v, lanes);
      const Seen seen = seen_by(c, s, v, vectors * LANES, first, rows);
      if (m + TILE_DEPTH <= seen.low || m >= seen.high) continue;
      const float *query = s->query + v * c->width;
      float *scores = s->scores + m * MAX_ROWS + v;
      if (vectors == TILE_VECTORS) score_tile(TILE_VECTORS, s->block, query, scores, c->width);
      else score_tile(1, s->block, query, scores, c->width);
    }
  }
  for (size_t r = 0; r < lanes; r += LANES) {
    const Seen seen = seen_by(c, s, r, LANES, first, rows);
    if (seen.low == seen.high) continue;
    float *scores = s->scores + r;
    const vi position = *(const vi *)(s->position + r);
    const vf before = load(s->most + r);
    vf most = before;
    for (size_t m = seen.low; m < seen.high; ++m) {
      vf score = load(scores + m * MAX_ROWS);
      if (seen.masked || c->softcap != 0.0f) {
        score = visible(c, score, (vi)(int32_t)(first + m), position, seen.masked);
        store(scores + m * MAX_ROWS, score);
      }
      most = larger(most, score);
    }
    const vf factor = power_of_two(before - most);
    vf total = load(s->total + r) * factor;
    for (size_t m = seen.low; m < seen.high; ++m) {
      const vf weight = power_of_two(load(scores + m * MAX_ROWS) - most);
      total += weight;
      store(scores + m * MAX_ROWS, weight);
    }
    store(s->most + r, most);
    store(s->total + r, total);
    store(s->factor + r, factor);
  }
}

// A tile's columns of `out`, all rows.
INLINE void value_columns(const int kind, const int vectors, const Call *c, Scratch *s,
                          const Block *values, size_t first, size_t rows, size_t column) {
  const size_t columns = vectors * LANES;
  for (size_t i = 0; i * DEPTH < rows; ++i)
    widen(kind, values + i, 0, DEPTH, column, columns, s->block + i * DEPTH * columns);
  for (size_t r = 0; r < c->rows; r += TILE_DEPTH) {
    const Seen seen = seen_by(c, s, r, TILE_DEPTH, first, rows);
    if (seen.low == seen.high) continue;
    value_tile(vectors, s->out + r, s->factor + r, s->scores + seen.low * MAX_ROWS + r,
               s->block + seen.low * columns, seen.high - seen.low, column, seen.fresh);
  }
}

INLINE void many_values(const int kind, const Call *c, Scratch *s, const Block *values,
                        size_t first, size_t rows) {
  size_t d = 0;
  for (; d + TILE_VECTORS * LANES <= c->value_width; d += TILE_VECTORS * LANES)
    value_columns(kind, TILE_VECTORS, c, s, values, first, rows, d);
  for (; d < c->value_width; d += LANES) value_columns(kind, 1, c, s, values, first, rows, d);
}

// An i8 block's scales, side by side; zero for rows that are not there.
INLINE void gather_scales(const int kind, const Block *b, float *to) {
  if (kind == I8)
    for (size_t m = 0; m < DEPTH; ++m) to[m] = m < b->rows ? b->scales[m * b->apart] : 0.0f;
}

INLINE void ask_for_next(const int kind, const Block *b, size_t m) {
  if (m < b->ahead)
    for (size_t i = 0; i < b->width * size_of(kind); i += 64)
      __builtin_prefetch(row_of(b, m + DEPTH) + i, 0, 2);
}

// Dot products of `count` query rows with the block's rows: vectors lie along the width.
INLINE void dot_rows(const int kind, const int count, const Block *b, const float *const *queries,
                     float *scores) {
  for (size_t m = 0; m < DEPTH; m += FEW_DEPTH) {
    const char *keys[FEW_DEPTH];
    vf sums[2][FEW_DEPTH];
#pragma unroll
    for (int i = 0; i < FEW_DEPTH; ++i) {
      // What stands in for a missing row is hidden.
      keys[i] = row_of(b, m + i < b->rows ? m + i : 0);
      ask_for_next(kind, b, m + i);
#pragma unroll
      for (int r = 0; r < count; ++r) sums[r][i] = splat(0.0f);
    }
    for (size_t d = 0; d < b->width; d += LANES) {
      vf query[2];
#pragma unroll
      for (int r = 0; r < count; ++r) query[r] = load(queries[r] + d);
#pragma unroll
      for (int i = 0; i < FEW_DEPTH; ++i) {
        const vf key = load_as(kind, keys[i], d);
#pragma unroll
        for (int r = 0; r < count; ++r) sums[r][i] = query[r] * key + sums[r][i];
      }
    }
#pragma unroll
    for (int r = 0; r < count; ++r) add_lanes(sums[r], scores + r * DEPTH + m);
  }
}

INLINE void few_scores(const int kind, const Call *c, Scratch *s, const Block *k, const Block *v,
                       size_t first, int masked) {
  const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  float value_scales[DEPTH];
  gather_scales(kind, k, s->scales);
  gather_scales(kind, v, value_scales);
  size_t r = 0;
  for (; r + 2 <= c->rows; r += 2) dot_rows(kind, 2, k, s->source + r, s->scores + r * DEPTH);
  if (r < c->rows) dot_rows(kind, 1, k, s->source + r, s->scores + r * DEPTH);
  for (r = 0; r < c->rows; ++r) {
    float *scores = s->scores + r * DEPTH;
    vf most = splat(s->most[r]);
#pragma unroll
    for (size_t m = 0; m < DEPTH; m += LANES) {
      const vi row = (vi)(int32_t)(first + m) + lane;
      const vf dot = kind == I8 ? load(scores + m) * load(s->scales + m) : load(scores + m);
      const vf score = visible(c, dot * splat(s->scale), row, (vi)s->position[r], masked);
      most = larger(most, score);
      store(scores + m, score);
    }
    most = splat(largest(most));
    vf total = splat(0.0f);
#pragma unroll
    for (size_t m = 0; m < DEPTH; m += LANES) {
      const vf weight = power_of_two(load(scores + m) - most);
      total += weight;
      store(scores + m, kind == I8 ? weight * load(value_scales + m) : weight);
    }
    s->factor[r] = power_of_two(splat(s->most[r]) - most)[0];
    s->most[r] = most[0];
    s->total[r] = s->total[r] * s->factor[r] + sum(total);
  }
}

INLINE void few_value_tile(const int kind, const int count, const int vectors, const Block *b,
                           float *const *out, const float *factors, const float *weights,
                           size_t column) {
  vf sums[2][FEW_VECTORS];
#pragma unroll
  for (int r = 0; r < count; ++r)
#pragma unroll
    for (int v = 0; v < vectors; ++v)
      sums[r][v] = load(out[r] + column + v * LANES) * splat(factors[r]);
  for (size_t m = 0; m < b->rows && m < DEPTH; ++m) {
    if (column == 0) ask_for_next(kind, b, m);
    const char *values = row_of(b, m);
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const vf value = load_as(kind, values, column + v * LANES);
#pragma unroll
      for (int r = 0; r < count; ++r)
        sums[r][v] = splat(weights[r * DEPTH + m]) * value + sums[r][v];
    }
  }
#pragma unroll
  for (int r = 0; r < count; ++r)
#pragma unroll
    for (int v = 0; v < vectors; ++v) store(out[r] + column + v * LANES, sums[r][v]);
}

INLINE void few_values(const int kind, const Call *c, Scratch *s, const Block *b) {
  for (size_t r = 0; r < c->rows; r += 2) {
    float *const *out = s->out + r;
    const float *factors = s->factor + r, *weights = s->scores + r * DEPTH;
    const int both = r + 2 <= c->rows;
    size_t d = 0;
    for (; d + FEW_VECTORS * LANES <= b->width; d += FEW_VECTORS * LANES) {
      if (both) few_value_tile(kind, 2, FEW_VECTORS, b, out, factors, weights, d);
      else few_value_tile(kind, 1, FEW_VECTORS, b, out, factors, weights, d);
    }
    for (; d < b->width; d += LANES) {
      if (both) few_value_tile(kind, 2, 1, b, out, factors, weights, d);
      else few_value_tile(kind, 1, 1, b, out, factors, weights, d);
    }
  }
}

INLINE void finish(const Call *c, Scratch *s) {
  for (size_t r = 0; r < c->rows; ++r) {
    const vf inverse = splat(1.0f / s->total[r]);
    for (size_t d = 0; d < c->value_width; d += LANES)
      store(s->out[r] + d, load(s->out[r] + d) * inverse);
  }
}

// The block at position `first`, of what is read up to `end`, `depth` rows at a time.
INLINE Block block_at(const int kind, const Call *c, const char *rows, size_t width,
                      const float *scales, size_t first, size_t end, size_t depth) {
  // With a window the cache is a ring, of whole blocks; without, it has room for all of them.
  const size_t at = first % c->capacity, left = end - first;
  const size_t ahead = left > depth && at + depth < c->capacity ? left - depth : 0;
  const size_t step = c->kv_heads * width * size_of(kind);
  const size_t heads = c->kv_heads;
  return (Block){rows + at * step, step, width, left, ahead, scales + at * heads, heads};
}

INLINE void attend(const int kind, const Call *c, const char *keys, const char *values,
                   const float *key_scales, const float *value_scales, size_t tokens,
                   int has_sinks) {
  const size_t earliest = c->start + c->token, end = earliest + tokens, window = c->window;
  const size_t low = window && earliest + 1 > window ? earliest + 1 - window : 0;
  const size_t kstep = c->kv_heads * c->width * size_of(kind);
  const size_t vstep = c->kv_heads * c->value_width * size_of(kind);
  const size_t start = low / DEPTH * DEPTH;
  // The first block is asked for here, each later one while that before it is computed.
  for (size_t m = start % c->capacity, n = 0; n < DEPTH && start + n < end; ++m, ++n) {
    for (size_t i = 0; i < c->width * size_of(kind); i += 64)
      __builtin_prefetch(keys + m * kstep + i, 0, 2);
    for (size_t i = 0; i < c->value_width * size_of(kind); i += 64)
      __builtin_prefetch(values + m * vstep + i, 0, 2);
  }
  Scratch s __attribute__((aligned(64)));
  prepare(c, &s, has_sinks);
  if (c->rows <= FEW_ROWS) {
    for (size_t m = start; m < end; m += DEPTH) {
      const Block k = block_at(kind, c, keys, c->width, key_scales, m, end, DEPTH);
      const Block v = block_at(kind, c, values, c->value_width, value_scales, m, end, DEPTH);
      const int masked = m + DEPTH > earliest + 1 || (window && m + window < end);
      few_scores(kind, c, &s, &k, &v, m, masked);
      few_values(kind, c, &s, &v);
    }
  } else {
    for (size_t m = start; m < end; m += DEEP) {
      const size_t rows = end - m < DEEP ? end - m : DEEP;
      Block k[DEEP / DEPTH], v[DEEP / DEPTH];
      for (size_t i = 0; i * DEPTH < rows; ++i) {
        const size_t at = m + i * DEPTH;
        k[i] = block_at(kind, c, keys, c->width, key_scales, at, end, DEEP);
        v[i] = block_at(kind, c, values, c->value_width, value_scales, at, end, DEEP);
      }
      many_scores(kind, c, &s, k, m, rows);
      many_values(kind, c, &s, v, m, rows);
    }
  }
  finish(c, &s);
}

#define ATTENTION(name, kind)                                                                    \
  KERNEL(attention_##name) {                                                                     \
    const size_t token = block * span;                                                           \
    const size_t count = token + span < tokens ? span : tokens - token;                          \
    const size_t kv = part * per / (heads / kv_heads);                                           \
    const Call c = {query, sinks,       out,    tokens,   heads,      kv_heads,                  \
                    width, value_width, window, capacity, scale,      softcap,                   \
                    start, part * per,  per,    token,    per * count};                          \
    attend(kind, &c, (const char *)(key + kv * width), (const char *)(value + kv * value_width), \
           key_scales + kv, value_scales + kv, count, has_sinks != 0);                           \
  }

ATTENTION(f32, F32)
ATTENTION(f16, F16)
ATTENTION(bf16, BF16)
ATTENTION(i8, I8)
