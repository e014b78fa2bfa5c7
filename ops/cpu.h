// What the sources of the CPU library share; each then includes code_paths.h with kernels of its own.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <limits>
#include <type_traits>
#include <vector>

#include "arguments.h"

#define SIS_FN static inline __attribute__((always_inline))
#define SIS_SLOW static __attribute__((noinline))
using std::exp, std::expm1, std::fabs, std::log1p, std::tanh;  // the float versions for float

constexpr int64_t GRAIN = 16384;  // elements below which waking other threads costs more than it gains

// Do what is said for the type T that `dtype` stands for and return true; false for a number that stands for none.
#define SIS_BY_DTYPE(dtype, ...)                                  \
    switch (dtype) {                                              \
        case 0: { using T = float; __VA_ARGS__; return true; }    \
        case 1: { using T = double; __VA_ARGS__; return true; }   \
        case 2: { using T = Half; __VA_ARGS__; return true; }     \
        case 3: { using T = BFloat; __VA_ARGS__; return true; }   \
        default: return false;                                    \
    }
