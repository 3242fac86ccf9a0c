// Experts: the kernels of quantized_linear.h, each group of rows with its own expert's matrix.
//
// The matrices lie one after the other, packed alike. Which rows an expert has is read here, from
// what the router computed: a workgroup is launched for every expert and returns at once where
// there are no rows.

#define GROUP_ROWS 256  // of activations at a time: they stay in the second-level cache
#define LINE 64

// As quantize_rows, but only rows that some expert has.
KERNEL(quantize_groups) {
  const Norm none = {0, NULL, 0.0f};
  quantize(&none, x, q, s, c, (size_t)offsets[experts], k, row, count);
}

// An expert's matrix.
INLINE Layer matrix(const uint8_t *w, const void *ws, float *out, size_t expert, size_t n, size_t k,
                    size_t group) {
  Layer l = {.w = w, .ws = ws, .out = out, .n = n};
  const size_t panels = panels_of(&l), offsets = SCALES == FLAT && OFFSET != NO_OFFSET ? 2 : 1;
  l.w += expert * panels * (k / BLOCK) * BLOCK_BYTES;
  l.ws = (const uint8_t *)ws + expert * panels * scale_bytes(k, group) * offsets;
  return l;
}

// Rows m0 .. m1 by a matrix's panels, and up to ROWS - 1 rows more, which are there because groups
// are padded. While a panel's later tiles are computed, the next panel comes from memory: unlike a
// layer's weights, an expert's have few rows each to hide that behind.
INLINE void group_matmul(const Rows *x, const Layer *l, size_t m0, size_t m1) {
  const size_t k = x->k, blocks = k / BLOCK, bytes = blocks * BLOCK_BYTES;
  const size_t scales = scale_bytes(k, x->group);
  const size_t tiles = (m1 - m0 + ROWS - 1) / ROWS;
  const size_t share = (bytes / LINE + tiles - 1) / tiles * LINE;
  for (size_t p = l->first; p < l->end; ++p) {
    const uint8_t *wp = l->w + p * bytes, *next = wp + bytes, *last = next + bytes;
    if (p + 1 == l->end) next = last;
    const uint8_t *sp = (const uint8_t *)l->ws + p * scales, *zp = sp + panels_of(l) * scales;
    const size_t width = l->n - p * PANEL < PANEL ? l->n - p * PANEL : PANEL;
    for (size_t m = m0; m < m1; m += ROWS) {
      for (const uint8_t *until = next + share; next < until && next < last; next += LINE)
        __builtin_prefetch(next, 0, 2);
      float *o = l->out + m * l->n + p * PANEL;
#define TILE(rows)                                                                            \
  tile(rows, x->q + m * k, x->s + m * blocks, x->c + m * blocks * SPANS, wp, sp, zp, o, l->n, \
       width, k, x->group)
      if (m1 - m > ROWS / 2) TILE(ROWS);
      else if (m1 - m > ROWS / 4) TILE(ROWS / 2);
      else TILE(ROWS > 2 ? ROWS / 4 : 1);
#undef TILE
    }
  }
}

// The first counts[expert] rows from offsets[expert] on by panels first .. first + count.
KERNEL(grouped_matmul) {
  const size_t begin = (size_t)offsets[expert], end = begin + (size_t)counts[expert];
  const Rows x = {q, s, c, k, group};
  Layer l = matrix(w, ws, out, expert, n, k, group);
  if (!panels_in(&l, 0, first, count)) return;
  for (size_t row = begin; row < end; row += GROUP_ROWS)
    group_matmul(&x, &l, row, row + GROUP_ROWS < end ? row + GROUP_ROWS : end);
}

// Row `row` by panels first .. first + count of its expert.
KERNEL(grouped_matvec) {
  const Norm none = {0, NULL, 0.0f};
  ROW(&none, x + row * k)
  Layer l = matrix(w, ws, out + row * n, (size_t)experts[row], n, k, group);
  if (panels_in(&l, 0, first, count)) matmul(&rows, &l, 0, 1);
}
