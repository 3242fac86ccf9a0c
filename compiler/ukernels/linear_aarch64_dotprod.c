// NEON: 32 registers of 4.
#define LANES 4
#define TILE_ROWS 6
#define TILE_VECTORS 4
#define FEW_SUMS 16
#include "linear.h"
