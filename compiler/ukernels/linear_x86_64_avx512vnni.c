// AVX-512: 32 registers of 16.
#define LANES 16
#define TILE_ROWS 12
#define TILE_VECTORS 2
#define FEW_SUMS 16
#include "linear.h"
