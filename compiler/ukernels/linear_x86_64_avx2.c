// AVX2: 16 registers of 8.
#define LANES 8
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define FEW_SUMS 8
#include "linear.h"
