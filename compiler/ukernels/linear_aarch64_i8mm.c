// The same as without matrix products of integers: there are none here.
#include "linear_aarch64_dotprod.c"
