// The CPU library: a C interface that knows nothing of torch, and a code path per instruction set chosen at run time.
//
// Compiled with OpenMP but linked without its library: the symbols resolve to the one that torch has loaded, so the
// loops run on torch's own threads and obey torch.set_num_threads.

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

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SIS_X86 1
#endif

#define SIS_VECTOR_BYTES 16
namespace baseline {
#include "cpu_kernels.h"
}

#ifdef SIS_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#undef SIS_VECTOR_BYTES
#define SIS_VECTOR_BYTES 32
namespace avx2 {
#include "cpu_kernels.h"
}
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,prefer-vector-width=512")
#endif
#undef SIS_VECTOR_BYTES
#define SIS_VECTOR_BYTES 64
namespace avx512 {
#include "cpu_kernels.h"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

namespace {

const char* const NAMES[] = {"baseline", "avx2", "avx512"};

int best_path() {
#ifdef SIS_X86
    __builtin_cpu_init();
    const bool two = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (two && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        return 2;
    return two ? 1 : 0;
#else
    return 0;
#endif
}

int active = best_path();

}  // namespace

#ifdef SIS_X86
#define SIS_CALL(call) (active == 2 ? avx512::call : active == 1 ? avx2::call : baseline::call)
#else
#define SIS_CALL(call) baseline::call
#endif

// Every function returns 0, or 1 for arguments it does not know; it never throws and keeps no pointer.
#define SIS_API extern "C" __attribute__((visibility("default")))

SIS_API int sis_version() { return 1; }

SIS_API const char* sis_path() { return NAMES[active]; }

// Take another code path, for tests; false if this CPU lacks it.
SIS_API int sis_choose_path(const char* name) {
    for (int i = 0; i <= best_path(); ++i)
        if (!strcmp(name, NAMES[i])) return active = i, 1;
    return 0;
}

SIS_API int sis_epilogue(const EpilogueArguments* a, const void* x, void* y, void*) {
    return !SIS_CALL(epilogue(*a, x, y));
}

SIS_API int sis_epilogue_grad(const EpilogueArguments* a, const void* dy, const void* x, void* dx, void* sums, void*) {
    return !SIS_CALL(epilogue_grad(*a, dy, x, dx, sums));
}

SIS_API int sis_curve(const EpilogueArguments* a, int order, const void* t, const void* v, void* out, void*) {
    return !SIS_CALL(curve(*a, order, t, v, out));
}

SIS_API int sis_upfirdn2d(const FilterArguments* a, const void* x, void* y, void*) {
    return !SIS_CALL(upfirdn2d(*a, x, y));
}
