// Experts: the kernels of linear.h, each group of rows with its own expert's matrix.
//
// The matrices lie one after the other, [experts][n][k]. Which rows an expert has is read here,
// from what the router computed: a workgroup is launched for every expert and returns at once where
// there are no rows. Groups begin at whole panels.

// As linear_pack, but only rows that some expert has.
KERNEL(grouped_pack) {
  const Norm none = {0, NULL, 0.0f};
  pack_rows(&none, x, to, (size_t)offsets[experts], k, row, count, column, columns);
}

// `many`: rows offsets[expert] .. offsets[expert + 1], of which x has the panels, by rows
// first .. first + count of the expert's matrix. `few`: row `row` of x by those of its own expert.
#define GROUPED(name, KIND)                                                      \
  KERNEL(grouped_many_##name) {                                                  \
    const size_t end = (size_t)offsets[expert + 1];                              \
    const Part p = {.w = (const char *)(w + expert * n * k),                     \
                    .out = out,                                                  \
                    .n = n,                                                      \
                    .first = first,                                              \
                    .end = first + count < n ? first + count : n};               \
    for (size_t row = (size_t)offsets[expert]; row < end; row += MOST_ROWS)      \
      many_##KIND(x, &p, k, row, row + MOST_ROWS < end ? row + MOST_ROWS : end); \
  }                                                                              \
  KERNEL(grouped_few_##name) {                                                   \
    const Part p = {.w = (const char *)(w + (size_t)experts[row] * n * k),       \
                    .out = out + row * n,                                        \
                    .n = n,                                                      \
                    .first = first,                                              \
                    .end = first + count < n ? first + count : n};               \
    few_##KIND(x + row * k, &p, 1, k);                                           \
  }

GROUPED(f32, F32)
GROUPED(f16, F16)
GROUPED(bf16, BF16)
