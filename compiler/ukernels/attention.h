// Causal attention of a block of tokens over a cache, for all feature levels. A level's .c file
// states the sizes of its register tiles and includes this file; vectors are clang's, so that one
// source serves them all.
//
// Everything is freestanding: no libc, no globals, no thread-local storage. IREE calls the function
// once a workgroup, with a pointer and an element offset for each buffer. A workgroup has one head
// of the cache, `per` of the query heads that share it and `span` tokens, and goes through the rows
// of the cache in blocks with a running softmax: a block is read once for all of them, converted to
// f32 where it lies in the first-level cache.
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
//   TILE_DEPTH     rows of the cache, or query rows, in registers at a time
//   TILE_VECTORS   vectors of 16 beside each
//   FEW_DEPTH      the same with few query rows, of which two are in registers: rows of the cache
//   FEW_VECTORS    vectors of the values

#include <stddef.h>
#include <stdint.h>

#define LANES 16
#define DEPTH 32         // rows of the cache in a block
#define MAX_WIDTH 256
#define MAX_ROWS 64      // query rows of a workgroup: tokens times heads
#define MAX_QUERY 8192   // query rows times width
#define FEW_ROWS 8       // up to here a row has vectors of its own instead of a lane
#define HIDDEN -1e30f
#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((ext_vector_type(LANES)));
typedef int32_t vi __attribute__((ext_vector_type(LANES)));
typedef uint32_t vu __attribute__((ext_vector_type(LANES)));
typedef _Float16 vh __attribute__((ext_vector_type(LANES)));
typedef uint16_t vs __attribute__((ext_vector_type(LANES)));
typedef int8_t vb __attribute__((ext_vector_type(LANES)));
typedef vf vf_any __attribute__((aligned(4)));
typedef vh vh_any __attribute__((aligned(2)));
typedef vs vs_any __attribute__((aligned(2)));
typedef vb vb_any __attribute__((aligned(1)));

typedef struct {
  const float *query, *sinks;
  float *out;
  size_t tokens, heads, kv_heads, width, value_width, window, capacity;
  float scale, softcap;
  size_t start, head, per, token, rows;  // of this workgroup: rows = per * its tokens
} Call;

INLINE vf splat(float x) { return (vf)x; }
INLINE vf load(const float *p) { return *(const vf_any *)p; }
INLINE void store(float *p, vf v) { *(vf_any *)p = v; }

// What a cache holds; `kind` is a constant at every call.
enum { F32, F16, BF16, I8 };
INLINE size_t size_of(const int kind) { return kind == F32 ? 4 : kind == I8 ? 1 : 2; }
INLINE vf load_as(const int kind, const char *p, size_t column) {
  if (kind == F16) return __builtin_convertvector(((const vh_any *)(p + column * 2))[0], vf);
  if (kind == BF16)
    return (vf)(__builtin_convertvector(((const vs_any *)(p + column * 2))[0], vu) << 16);
  if (kind == I8) return __builtin_convertvector(((const vb_any *)(p + column))[0], vf);
  return load((const float *)p + column);
}

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
    *(v4_any *)(to + i) = __builtin_shufflevector(a, b, 0, 1, 4, 5) +
                          __builtin_shufflevector(a, b, 2, 3, 6, 7);
  }
}

INLINE float largest(vf v) { return __builtin_reduce_max(v); }

// e^x for x <= 0, within 2 units in the last place; 0 below -87.
INLINE vf exponential(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: its last bits hold the rounded sum
  const vf bounded = __builtin_elementwise_max(x, splat(-87.0f));
  const vf shifted = bounded * splat(1.44269504f) + magic;
  const vf n = shifted - magic;
  vf r = bounded - n * splat(0.693359375f);
  r = r + n * splat(2.12194440e-4f);
  vf p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * r * r + r + splat(1.0f);
  const vf result = (vf)((vi)p + ((vi)shifted << 23));
  return x < splat(-87.0f) ? splat(0.0f) : result;
}

// softcap * tanh(x / softcap)
INLINE vf capped(vf x, float softcap) {
  const vf y = x * splat(1.0f / softcap);
  const vf magnitude = __builtin_elementwise_abs(y);
  const vf e = exponential(magnitude * splat(-2.0f));
  const vf t = (splat(1.0f) - e) / (splat(1.0f) + e);
  return splat(softcap) * (y < splat(0.0f) ? -t : t);
}

// The scores of a block as the softmax takes them; `row` and `position` are of cache and query.
INLINE vf visible(const Call *c, vf dot, vi row, vi position, int masked) {
  vf score = dot * splat(c->scale);
  if (c->softcap != 0.0f) score = capped(score, c->softcap);
  if (!masked) return score;
  const vi near = c->window ? row + (vi)(int32_t)c->window > position : (vi)-1;
  return ((row <= position) & near) ? score : splat(HIDDEN);
}

// sums[i][v] += left[i * stride + d * step] * right[d * next + v] for `depth` d; the constants size the register tile.
INLINE void multiply(const int rows, const int vectors, const float *left, size_t stride,
                     size_t step, const float *right, size_t next, size_t depth,
                     vf sums[TILE_DEPTH][TILE_VECTORS]) {
  for (size_t d = 0; d < depth; ++d) {
    vf r[TILE_VECTORS];
#pragma unroll
    for (int v = 0; v < vectors; ++v) r[v] = load(right + d * next + v * LANES);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const vf l = splat(left[i * stride + d * step]);
#pragma unroll
      for (int v = 0; v < vectors; ++v) sums[i][v] = l * r[v] + sums[i][v];
    }
  }
}

// Scores of a block with rows in lanes: scores[m][rows] = keys[m][d] * turned[d][rows].
INLINE void score_tile(const int vectors, const float *keys, const float *turned, float *scores,
                       size_t width, size_t lanes) {
  for (size_t m = 0; m < DEPTH; m += TILE_DEPTH) {
    vf sums[TILE_DEPTH][TILE_VECTORS];
#pragma unroll
    for (int i = 0; i < TILE_DEPTH; ++i)
#pragma unroll
      for (int v = 0; v < vectors; ++v) sums[i][v] = splat(0.0f);
    multiply(TILE_DEPTH, vectors, keys + m * width, width, 1, turned, lanes, width, sums);
#pragma unroll
    for (int i = 0; i < TILE_DEPTH; ++i)
#pragma unroll
      for (int v = 0; v < vectors; ++v) store(scores + (m + i) * lanes + v * LANES, sums[i][v]);
  }
}

// out[row] = out[row] * factor[row] + the block's values by their weights.
INLINE void value_tile(const int rows, const int vectors, float *const *out, const float *factors,
                       const float *weights, size_t lanes, const float *values, size_t width,
                       size_t column) {
  vf sums[TILE_DEPTH][TILE_VECTORS];
#pragma unroll
  for (int i = 0; i < rows; ++i)
#pragma unroll
    for (int v = 0; v < vectors; ++v)
      sums[i][v] = load(out[i] + column + v * LANES) * splat(factors[i]);
  multiply(rows, vectors, weights, 1, lanes, values + column, width, DEPTH, sums);
#pragma unroll
  for (int i = 0; i < rows; ++i)
#pragma unroll
    for (int v = 0; v < vectors; ++v) store(out[i] + column + v * LANES, sums[i][v]);
}

typedef struct {
  float block[DEPTH * MAX_WIDTH];           // keys, then values, of the block: f32
  float query[MAX_QUERY];                   // many rows: [width][lanes]; few: not used
  float scores[DEPTH * MAX_ROWS];           // many rows: [DEPTH][lanes]; few: [rows][DEPTH]
  float most[MAX_ROWS], total[MAX_ROWS], factor[MAX_ROWS];
  float scales[DEPTH];                      // of an i8 block's rows
  float *out[MAX_ROWS];
  const float *source[MAX_ROWS];            // the rows of the query
  int32_t position[MAX_ROWS];
} Scratch;

INLINE size_t lanes_of(const Call *c) { return (c->rows + LANES - 1) / LANES * LANES; }

INLINE void prepare(const Call *c, Scratch *s, int has_sinks) {
  const size_t lanes = lanes_of(c);
  for (size_t r = 0; r < lanes; ++r) {
    const size_t row = r < c->rows ? r : 0;  // a lane without a row repeats the first
    const size_t head = c->head + row % c->per, token = c->token + row / c->per;
    s->source[r] = c->query + (head * c->tokens + token) * c->width;
    s->out[r] = c->out + (token * c->heads + head) * c->value_width;
    s->position[r] = (int32_t)(c->start + token);
    s->most[r] = has_sinks ? c->sinks[head] : HIDDEN;
    s->total[r] = has_sinks ? 1.0f : 0.0f;
  }
  for (size_t r = 0; r < c->rows; ++r)
    for (size_t d = 0; d < c->value_width; d += LANES) store(s->out[r] + d, splat(0.0f));
  if (c->rows <= FEW_ROWS) return;
  for (size_t r = 0; r < lanes; ++r)
    for (size_t d = 0; d < c->width; ++d) s->query[d * lanes + r] = s->source[r][d];
}

// A row in a lane: nothing is summed across lanes.
INLINE void many_scores(const Call *c, Scratch *s, size_t first, int masked) {
  const size_t lanes = lanes_of(c);
  size_t v = 0;
  for (; v + TILE_VECTORS * LANES <= lanes; v += TILE_VECTORS * LANES)
    score_tile(TILE_VECTORS, s->block, s->query + v, s->scores + v, c->width, lanes);
  for (; v < lanes; v += LANES)
    score_tile(1, s->block, s->query + v, s->scores + v, c->width, lanes);
  for (size_t r = 0; r < lanes; r += LANES) {
    const vi position = *(const vi *)(s->position + r);
    const vf before = load(s->most + r);
    vf most = before;
    for (size_t m = 0; m < DEPTH; ++m) {
      float *at = s->scores + m * lanes + r;
      const vf score = visible(c, load(at), (vi)(int32_t)(first + m), position, masked);
      most = __builtin_elementwise_max(most, score);
      store(at, score);
    }
    const vf factor = exponential(before - most);
    vf total = load(s->total + r) * factor;
    for (size_t m = 0; m < DEPTH; ++m) {
      float *at = s->scores + m * lanes + r;
      const vf weight = exponential(load(at) - most);
      total += weight;
      store(at, weight);
    }
    store(s->most + r, most);
    store(s->total + r, total);
    store(s->factor + r, factor);
  }
}

INLINE void many_values(const Call *c, Scratch *s) {
  const size_t width = c->value_width, lanes = lanes_of(c);
  size_t r = 0;
#define ROWS_OF_TILE(count)                                                                     \
  for (; r + (count) <= c->rows; r += (count)) {                                                \
    size_t d = 0;                                                                               \
    for (; d + TILE_VECTORS * LANES <= width; d += TILE_VECTORS * LANES)                        \
      value_tile(count, TILE_VECTORS, s->out + r, s->factor + r, s->scores + r, lanes, s->block, \
                 width, d);                                                                     \
    for (; d < width; d += LANES)                                                               \
      value_tile(count, 1, s->out + r, s->factor + r, s->scores + r, lanes, s->block, width, d); \
  }
  ROWS_OF_TILE(TILE_DEPTH)
  ROWS_OF_TILE(2)
  ROWS_OF_TILE(1)
#undef ROWS_OF_TILE
}

// A block's rows of the cache: `rows` of them, `step` bytes apart, and as many after them as `ahead`.
typedef struct {
  const char *first;
  size_t step, width, rows, ahead;
  const float *scales;  // of its rows, `apart` elements from each other, if i8
  size_t apart;
} Block;

INLINE const char *row_of(const Block *b, size_t m) { return b->first + m * b->step; }

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
  for (; r + 2 <= c->rows; r += 2)
    dot_rows(kind, 2, k, s->source + r, s->scores + r * DEPTH);
  if (r < c->rows) dot_rows(kind, 1, k, s->source + r, s->scores + r * DEPTH);
  for (r = 0; r < c->rows; ++r) {
    float *scores = s->scores + r * DEPTH;
    vf most = splat(s->most[r]);
    for (size_t m = 0; m < DEPTH; m += LANES) {
      const vi row = (vi)(int32_t)(first + m) + lane;
      const vf dot = kind == I8 ? load(scores + m) * load(s->scales + m) : load(scores + m);
      const vf score = visible(c, dot, row, (vi)s->position[r], masked);
      most = __builtin_elementwise_max(most, score);
      store(scores + m, score);
    }
    most = splat(largest(most));
    vf total = splat(0.0f);
    for (size_t m = 0; m < DEPTH; m += LANES) {
      const vf weight = exponential(load(scores + m) - most);
      total += weight;
      store(scores + m, kind == I8 ? weight * load(value_scales + m) : weight);
    }
    s->factor[r] = exponential(splat(s->most[r]) - most)[0];
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

// The block's rows as f32; those past the last are zero, whatever the cache holds there.
INLINE void widen(const int kind, const Block *b, float *to) {
  for (size_t m = 0; m < DEPTH; ++m) {
    ask_for_next(kind, b, m);
    for (size_t d = 0; d < b->width; d += LANES)
      store(to + m * b->width + d,
            m >= b->rows ? splat(0.0f)
                         : kind == I8 ? load_as(kind, row_of(b, m), d) * splat(b->scales[m * b->apart])
                                      : load_as(kind, row_of(b, m), d));
  }
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
  Scratch s;
  prepare(c, &s, has_sinks);
  for (size_t m = start; m < end; m += DEPTH) {
    // With a window the cache is a ring, of whole blocks; without, it has room for all of them.
    const size_t at = m % c->capacity, rows = end - m;
    const size_t ahead = rows > DEPTH && at + DEPTH < c->capacity ? rows - DEPTH : 0;
    const int masked = m + DEPTH > earliest + 1 || (window && m + window < end);
    const size_t heads = c->kv_heads;
    const Block k = {keys + at * kstep, kstep, c->width, rows, ahead, key_scales + at * heads, heads};
    const Block v = {values + at * vstep, vstep, c->value_width, rows, ahead,
                     value_scales + at * heads, heads};
    if (c->rows <= FEW_ROWS) {
      few_scores(kind, c, &s, &k, &v, m, masked);
      few_values(kind, c, &s, &v);
    } else {
      widen(kind, &k, s.block);
      many_scores(c, &s, m, masked);
      widen(kind, &v, s.block);
      many_values(c, &s);
    }
  }
  finish(c, &s);
}

#define ATTENTION(name, kind, element)                                                         \
  void edgec_attention_##name(                                                                 \
      const float *query, size_t qo, const element *key, size_t ko, const element *value,      \
      size_t vo, const float *sinks, size_t so, const float *key_scales, size_t kso,           \
      const float *value_scales, size_t vso, float *out, size_t oo, size_t start, size_t tokens, \
      size_t heads, size_t kv_heads, size_t width, size_t value_width,          \
      size_t window, size_t has_sinks, size_t per, size_t span, size_t capacity, float scale,  \
      float softcap,                                                                           \
      size_t part, size_t block) {                                                             \
    const size_t token = block * span;                                                         \
    const size_t count = token + span < tokens ? span : tokens - token;                        \
    const size_t kv = part * per / (heads / kv_heads);                                         \
    const Call c = {query + qo, sinks + so, out + oo, tokens, heads, kv_heads, width,          \
                    value_width, window, capacity, scale, softcap, start, part * per, per, token,        \
                    per * count};                                                              \
    attend(kind, &c, (const char *)(key + ko + kv * width),                                    \
           (const char *)(value + vo + kv * value_width), key_scales + kso + kv,               \
           value_scales + vso + kv, count, has_sinks != 0);                                    \
  }

ATTENTION(f32, F32, float)
ATTENTION(f16, F16, _Float16)
ATTENTION(bf16, BF16, uint16_t)
ATTENTION(i8, I8, int8_t)
