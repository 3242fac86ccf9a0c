// Declarations that all kernels' sources share.
//
// Everything is freestanding: no libc, no globals, no thread-local storage. IREE calls each kernel
// once a workgroup, on threads with stacks of 128 KB. `KERNEL(name)` in abi.h, which is written
// from the declarations in edgec.passes.kernels.table, is the head of a kernel's definition.

#pragma once

#include "abi.h"

#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline))
#define ALIGNED __attribute__((aligned(64)))  // a vector that crosses a line is slow to read back
