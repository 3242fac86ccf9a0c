// AVX2: 16 registers, a vector of 16 in two.
#define TILE_DEPTH 4
#define TILE_VECTORS 1
#define FEW_DEPTH 4
#define FEW_VECTORS 2
#include "attention.h"
#include "attention_step.h"
