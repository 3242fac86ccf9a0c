// AVX-512: 32 registers, one vector of 16 in each.
#define TILE_DEPTH 8
#define TILE_VECTORS 2
#define FEW_DEPTH 4
#define FEW_VECTORS 8
#include "attention.h"
#include "attention_step.h"
