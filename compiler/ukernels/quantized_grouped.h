// Experts: the kernels of quantized_linear.h, each group of rows with its own expert's matrix.
//
// The matrices lie one after the other, packed alike. Which rows an expert has is read here, from
// what the router computed: a workgroup is launched for every expert and returns at once where
// there are no rows.

#define GROUP_ROWS 256  // of activations at a time: they stay in the second-level cache
#define LINE 64

// Rows row .. row + count of x, as QUANTIZE does, but only those that some expert has.
#define QUANTIZE_GROUPS(bits)                                                        \
  KERNEL(quantize_groups_i##bits) {                                                  \
    const Norm none = {0, NULL, 0.0f};                                               \
    quantize_rows(bits, &none, x, q, s, c, (size_t)offsets[experts], k, row, count); \
  }

// Panels first .. first + count of rows m0 .. m1, and of up to ROWS - 1 rows more, which are there
// because groups are padded. While a panel's later tiles are computed, the next panel comes from
// memory: unlike a layer's weights, an expert's have few rows each to hide that behind.
INLINE void group_matmul(const int bits, const int8_t *q, const float *s, const int32_t *c,
                         const uint8_t *w, const uint16_t *ws, float *out, size_t m0, size_t m1,
                         size_t n, size_t k, size_t group, size_t first, size_t count) {
  const size_t panels = (n + PANEL - 1) / PANEL, blocks = k / BLOCK, bytes = PANEL * k * bits / 8;
  const size_t end = first + count < panels ? first + count : panels;
  const size_t tiles = (m1 - m0 + ROWS - 1) / ROWS;
  const size_t share = (bytes / LINE + tiles - 1) / tiles * LINE;
  for (size_t p = first; p < end; ++p) {
    const uint8_t *wp = w + p * bytes, *next = wp + bytes, *last = next + bytes;
    if (p + 1 == end) next = last;
    const uint16_t *sp = ws + p * PANEL * (k / group);
    const size_t width = n - p * PANEL < PANEL ? n - p * PANEL : PANEL;
    float *o = out + p * PANEL;
    for (size_t m = m0; m < m1; m += ROWS) {
      for (const uint8_t *until = next + share; next < until && next < last; next += LINE)
        __builtin_prefetch(next, 0, 2);
      const int8_t *qm = q + m * k;
      const float *sm = s + m * blocks;
      const int32_t *cm = c + m * blocks;
      if (m1 - m > ROWS / 2)
        tile(ROWS, bits, 0, qm, sm, cm, wp, sp, sp, o + m * n, n, width, k, group);
      else if (m1 - m > ROWS / 4)
        tile(ROWS / 2, bits, 0, qm, sm, cm, wp, sp, sp, o + m * n, n, width, k, group);
      else tile(ROWS / 4, bits, 0, qm, sm, cm, wp, sp, sp, o + m * n, n, width, k, group);
    }
  }
}

// The first counts[expert] rows from offsets[expert] on by panels first .. first + count.
#define GROUPED_MATMUL(bits)                                                                    \
  KERNEL(grouped_matmul_i##bits) {                                                              \
    const size_t begin = (size_t)offsets[expert], end = begin + (size_t)counts[expert];         \
    const size_t rows = (n + PANEL - 1) / PANEL * PANEL;                                        \
    w += expert * rows * k * bits / 8;                                                          \
    ws += expert * rows * (k / group);                                                          \
    for (size_t row = begin; row < end; row += GROUP_ROWS)                                      \
      group_matmul(bits, q, s, c, w, ws, out, row,                                              \
                   row + GROUP_ROWS < end ? row + GROUP_ROWS : end, n, k, group, first, count); \
  }

// Row `row` by panels first .. first + count of its expert.
#define GROUPED_MATVEC(bits)                                                      \
  KERNEL(grouped_matvec_i##bits) {                                                \
    const size_t expert = (size_t)experts[row], panels = (n + PANEL - 1) / PANEL; \
    int8_t q[MAX_FUSED_K];                                                        \
    float s[MAX_FUSED_K / BLOCK];                                                 \
    int32_t c[MAX_FUSED_K / BLOCK];                                               \
    const Norm none = {0, NULL, 0.0f};                                            \
    quantize_rows(bits, &none, x + row * k, q, s, c, 1, k, 0, 1);                 \
    const Rows rows = {q, s, c, k, group};                                        \
    Layer l = {.w = w + expert * panels * PANEL * k * bits / 8,                   \
               .ws = ws + expert * panels * PANEL * (k / group),                  \
               .out = out + row * n,                                              \
               .n = n};                                                           \
    if (panels_in(&l, 0, first, count)) matmul_i##bits(&rows, &l, 0, 1);          \
  }

QUANTIZE_GROUPS(8)
QUANTIZE_GROUPS(4)
GROUPED_MATMUL(8)
GROUPED_MATMUL(4)
GROUPED_MATVEC(8)
GROUPED_MATVEC(4)
