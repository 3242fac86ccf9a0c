// All from the projections of a block of tokens to attention: RMS norm of each head's row of
// query and key, their rotation by position, and the rows of key and value in the cache. For one
// token a workgroup does that for its own heads and attends; for many it is a dispatch of its own.
//
// Buffers beside those of attention:
//   query, key, value  f32, where the first row begins at `first`, those of the next token and head
//                      `token` and `head` elements further: [width], the value [value_width]
//   cos, sin           f32 [tokens][turn]; read if a row is rotated
//   query_norm, key_norm  f32 [width]: the norm's weights; read if it has them
//   keys, values       the cache: position p is written to row p % capacity
//
// The first `rotated` columns of a row turn: column d with d + rotated / 2, by the angles of these
// columns, or, where `turn` is rotated / 2, both by that of d. Everything is computed in f32.

enum { PLAIN, NORMED, WEIGHTED };

// The rows of a projection, and what becomes of them.
typedef struct {
  const float *first;
  size_t token_step, head_step, width;
  size_t norm;  // PLAIN, NORMED, or WEIGHTED by `weights`
  float epsilon;
  const float *weights, *cos, *sin;
  size_t rotated, turn;
} Rows;

INLINE void turn_row(const Rows *rows, size_t token, float *row) {
  const float *cos = rows->cos + token * rows->turn, *sin = rows->sin + token * rows->turn;
  const size_t half = rows->rotated / 2, second = rows->turn == half ? 0 : half;
  // No element is read after it was written.
#pragma clang loop vectorize(assume_safety)
  for (size_t d = 0; d < half; ++d) {
    const float a = row[d], b = row[half + d];
    row[d] = a * cos[d] - b * sin[d];
    row[half + d] = b * cos[second + d] + a * sin[second + d];
  }
}

// A row as attention takes it.
INLINE void prepare_row(const Rows *rows, size_t token, size_t head, float *to) {
  const float *from = rows->first + token * rows->token_step + head * rows->head_step;
  float factor = 1.0f;
  if (rows->norm != PLAIN) {
    vf squares = splat(0.0f);
    for (size_t d = 0; d < rows->width; d += LANES)
      squares = load(from + d) * load(from + d) + squares;
    const vf mean = splat(sum(squares) / (float)rows->width + rows->epsilon);
    factor = 1.0f / __builtin_elementwise_sqrt(mean)[0];
  }
  for (size_t d = 0; d < rows->width; d += LANES) {
    const vf x = load(from + d) * splat(factor);
    store(to + d, rows->norm == WEIGHTED ? x * load(rows->weights + d) : x);
  }
  if (rows->rotated) turn_row(rows, token, to);
}

// Ties to even; what is not a number stays that.
INLINE vs to_bf16(vf x) {
  const vu bits = (vu)x;
  const vu rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return __builtin_convertvector((x == x ? rounded : bits | 0x400000) >> 16, vs);
}

// Whole numbers, ties to even, of |x| up to 2^22.
INLINE vf whole(vf x) { return x + splat(12582912.0f) - splat(12582912.0f); }

// A row of a head as the cache keeps it; `scale` is the row's, if that is i8.
INLINE void write_row(const int kind, const float *from, size_t width, char *to, float *scale) {
  float inverse = 0.0f;
  if (kind == I8) {
    vf largest_of = splat(0.0f);
    for (size_t d = 0; d < width; d += LANES)
      largest_of = __builtin_elementwise_max(largest_of, __builtin_elementwise_abs(load(from + d)));
    const float most = largest(largest_of);
    inverse = most > 1e-30f ? 127.0f / most : 0.0f;
    *scale = most / 127.0f;
  }
  for (size_t d = 0; d < width; d += LANES) {
    const vf x = load(from + d);
    if (kind == F32) *(vf_any *)(to + d * 4) = x;
    if (kind == F16) *(vh_any *)(to + d * 2) = __builtin_convertvector(x, vh);
    if (kind == BF16) *(vs_any *)(to + d * 2) = to_bf16(x);
    if (kind == I8) *(vb_any *)(to + d) = __builtin_convertvector(whole(x * splat(inverse)), vb);
  }
}

// The rows of a head of the cache, that of position 0 first.
typedef struct {
  char *rows;
  float *scales;
  size_t step, apart, capacity;  // bytes from row to row, and elements from scale to scale
} Cache;

// Writes the token's row of a head, which `row` has room for.
INLINE void update(const int kind, const Cache *c, const Rows *from, size_t token, size_t head,
                   size_t position, float *row) {
  const size_t at = position % c->capacity;
  prepare_row(from, token, head, row);
  write_row(kind, row, from->width, c->rows + at * c->step, c->scales + at * c->apart);
}

INLINE Cache head_of(const int kind, char *rows, float *scales, size_t head, size_t kv_heads,
                     size_t width, size_t capacity) {
  return (Cache){rows + head * width * size_of(kind), scales + head,
                 kv_heads * width * size_of(kind), kv_heads, capacity};
}

// The heads of one workgroup, that share a head of the cache, where others may share it too: those
// write the same bytes, each before it reads them.
INLINE void step(const int kind, const Call *whole_call, const Rows *q, const Rows *k,
                 const Rows *v, const Cache *keys, const Cache *values, size_t kv, int has_sinks) {
  float queries[MAX_QUERY], row[MAX_WIDTH];
  update(kind, keys, k, 0, kv, whole_call->start, row);
  update(kind, values, v, 0, kv, whole_call->start, row);
  for (size_t i = 0; i < whole_call->per; ++i)
    prepare_row(q, 0, whole_call->head + i, queries + i * q->width);
  // The workgroup's heads are all that there are for `attend`.
  Call c = *whole_call;
  c.query = queries;
  c.sinks += c.head;
  c.out += c.head * c.value_width;
  c.heads = c.per;
  c.head = 0;
  attend(kind, &c, keys->rows, values->rows, keys->scales, values->scales, 1, has_sinks);
}

#define ROWS                                                                                    \
  const Rows q = {                                                                              \
      query + query_first, query_token, query_head, width,         query_normed, query_epsilon, \
      query_norm,          cos,         sin,        query_rotated, turn};                       \
  const Rows k = {key + key_first, key_token, key_head, width,       key_normed, key_epsilon,   \
                  key_norm,        cos,       sin,      key_rotated, turn};                     \
  const Rows v = {                                                                              \
      value + value_first, value_token, value_head, value_width, PLAIN, 0.0f, 0, 0, 0, 0, 0}

#define ATTENTION_STEP(name, kind)                                                        \
  KERNEL(attention_step_##name) {                                                         \
    const size_t kv = part * per / (heads / kv_heads);                                    \
    ROWS;                                                                                 \
    const Cache key_cache =                                                               \
        head_of(kind, (char *)keys, key_scales, kv, kv_heads, width, capacity);           \
    const Cache value_cache =                                                             \
        head_of(kind, (char *)values, value_scales, kv, kv_heads, value_width, capacity); \
    const Call c = {0,     sinks,       out,    1,        heads, kv_heads,                \
                    width, value_width, window, capacity, scale, softcap,                 \
                    start, part * per,  per,    0,        per};                           \
    step(kind, &c, &q, &k, &v, &key_cache, &value_cache, kv, has_sinks != 0);             \
  }

// Of `span` tokens: the query as [heads][tokens][width], unless there are no heads of it, and the
// rows of the cache.
#define ROTATE(name, kind)                                                                      \
  KERNEL(rotate_##name) {                                                                       \
    ROWS;                                                                                       \
    float row[MAX_WIDTH];                                                                       \
    for (size_t t = block * span; t < tokens && t < (block + 1) * span; ++t) {                  \
      for (size_t h = 0; h < heads; ++h) prepare_row(&q, t, h, out + (h * tokens + t) * width); \
      for (size_t h = 0; h < kv_heads; ++h) {                                                   \
        const Cache key_cache =                                                                 \
            head_of(kind, (char *)keys, key_scales, h, kv_heads, width, capacity);              \
        const Cache value_cache =                                                               \
            head_of(kind, (char *)values, value_scales, h, kv_heads, value_width, capacity);    \
        update(kind, &key_cache, &k, t, h, start + t, row);                                     \
        update(kind, &value_cache, &v, t, h, start + t, row);                                   \
      }                                                                                         \
    }                                                                                           \
  }

#define EACH_FORM(name, kind) \
  ATTENTION_STEP(name, kind)  \
  ROTATE(name, kind)
EACH_FORM(f32, F32)
EACH_FORM(f16, F16)
EACH_FORM(bf16, BF16)
EACH_FORM(i8, I8)
