#include "argmax.h"
