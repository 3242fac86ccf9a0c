// NEON with dot products.
#define ROWS 2
#include "quantized_linear_neon.h"
#include "quantized_linear.h"
