// Experts: the kernels of linear.h, each group of rows with its own expert's matrix.
//
// The matrices lie one after the other, [experts][n][k]. Which rows an expert has is read here, from
// what the router computed: a workgroup is launched for every expert and returns at once where
// there are no rows. Groups begin at whole panels.

// As edgec_linear_pack, but only rows that some expert has.
void edgec_grouped_pack(const float *x, size_t xo, const int32_t *offsets, size_t oo, float *to,
                        size_t too, size_t experts, size_t k, size_t row, size_t rows,
                        size_t column, size_t columns) {
  const Norm none = {0, NULL, 0.0f};
  pack_rows(&none, x + xo, to + too, (size_t)offsets[oo + experts], k, row, rows, column, columns);
}

// `many`: rows offsets[expert] .. offsets[expert + 1], of which x has the panels, by rows
// first .. first + count of the expert's matrix. `few`: row `row` of x by those of its own expert.
#define GROUPED(name, KIND, element)                                                           \
  void edgec_grouped_many_##name(const float *x, size_t xo, const element *w, size_t wo,       \
                                 const int32_t *offsets, size_t of, float *out, size_t oo,     \
                                 size_t n, size_t k, size_t first, size_t count,               \
                                 size_t expert) {                                              \
    const size_t end = (size_t)offsets[of + expert + 1];                                       \
    const Part p = {.w = (const char *)(w + wo + expert * n * k), .out = out + oo, .n = n,      \
                    .first = first, .end = first + count < n ? first + count : n};             \
    for (size_t row = (size_t)offsets[of + expert]; row < end; row += MOST_ROWS)               \
      many_##KIND(x + xo, &p, k, row, row + MOST_ROWS < end ? row + MOST_ROWS : end);          \
  }                                                                                            \
  void edgec_grouped_few_##name(const float *x, size_t xo, const element *w, size_t wo,        \
                                const int32_t *experts, size_t eo, float *out, size_t oo,      \
                                size_t n, size_t k, size_t first, size_t count, size_t row) {  \
    const Part p = {.w = (const char *)(w + wo + (size_t)experts[eo + row] * n * k),           \
                    .out = out + oo + row * n, .n = n, .first = first,                         \
                    .end = first + count < n ? first + count : n};                             \
    few_##KIND(x + xo + row * k, &p, 1, k);                                                    \
  }

GROUPED(f32, F32, float)
GROUPED(f16, F16, uint16_t)
GROUPED(bf16, BF16, uint16_t)
