// The same as without matrix products of integers: there are none here.
#include "attention_aarch64_dotprod.c"
