// Experts: the kernels of quantized_linear.h, each group of rows with its own expert's matrix.
//
// The matrices lie one after the other, packed alike. Which rows an expert has is read here, from
// what the router computed: a workgroup is launched for every expert and returns at once where
// there are no rows.

#define GROUP_ROWS 256  // of activations at a time: they stay in the second-level cache

// Rows row .. row + count of x, as QUANTIZE does, but none from offsets[experts] on.
#define QUANTIZE_GROUPS(bits)                                                                     \
  void edgec_quantize_groups_i##bits(const float *x, size_t xo, const int32_t *offsets,           \
                                     size_t oo, int8_t *q, size_t qo, float *s, size_t so,        \
                                     int32_t *c, size_t co, size_t experts, size_t k, size_t row, \
                                     size_t count) {                                              \
    edgec_quantize_rows_i##bits(x, xo, q, qo, s, so, c, co, (size_t)offsets[oo + experts], k, row, \
                                count);                                                           \
  }

// Rows offsets[expert] .. offsets[expert + 1] by panels first .. first + count of that expert.
#define GROUPED_MATMUL(bits)                                                                      \
  void edgec_grouped_matmul_i##bits(                                                              \
      const int8_t *q, size_t qo, const float *s, size_t so, const int32_t *c, size_t co,         \
      const uint8_t *w, size_t wo, const uint16_t *ws, size_t wso, const int32_t *offsets,        \
      size_t of, float *out, size_t oo, size_t n, size_t k, size_t group, size_t first,           \
      size_t count, size_t expert) {                                                              \
    const size_t begin = (size_t)offsets[of + expert], end = (size_t)offsets[of + expert + 1];    \
    const size_t rows = (n + PANEL - 1) / PANEL * PANEL;                                          \
    w += wo + expert * rows * k * bits / 8;                                                       \
    ws += wso + expert * rows * (k / group);                                                      \
    for (size_t row = begin; row < end; row += GROUP_ROWS)                                        \
      matmul(bits, 0, q + qo, s + so, c + co, w, ws, out + oo, row,                                  \
             row + GROUP_ROWS < end ? row + GROUP_ROWS : end, n, k, group, first, count);         \
  }

// Row `row` by panels first .. first + count of its expert.
#define GROUPED_MATVEC(bits)                                                                      \
  void edgec_grouped_matvec_i##bits(const float *x, size_t xo, const uint8_t *w, size_t wo,       \
                                    const uint16_t *ws, size_t wso, const int32_t *experts,       \
                                    size_t eo, float *out, size_t oo, size_t n, size_t k,         \
                                    size_t group, size_t first, size_t count, size_t row) {       \
    const size_t expert = (size_t)experts[eo + row], rows = (n + PANEL - 1) / PANEL * PANEL;      \
    edgec_quantized_matvec_i##bits(x, xo + row * k, w, wo + expert * rows * k * bits / 8, ws,     \
                                   wso + expert * rows * (k / group), out, oo + row * n, n, k,    \
                                   group, first, count);                                          \
  }

QUANTIZE_GROUPS(8)
QUANTIZE_GROUPS(4)
GROUPED_MATMUL(8)
GROUPED_MATMUL(4)
GROUPED_MATVEC(8)
GROUPED_MATVEC(4)
