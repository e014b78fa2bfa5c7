// A library's kernels once per instruction set, and the choice between them at run time.
//
// A source defines SIS_KERNELS, the name of the header that has the kernels, and includes this file: that header then
// stands in the namespaces `baseline`, `avx2` and `avx512`, for vectors of SIS_VECTOR_BYTES, and SIS_CALL(f(x)) calls f
// of the chosen one. What the kernels need of standard headers must have been included before: no function of
// theirs may be compiled for instructions that a CPU might lack, since the linker keeps one copy for all.
//
// Everything is compiled with OpenMP but linked without its library: the symbols resolve to the one that torch has
// loaded, so the loops run on torch's own threads and obey torch.set_num_threads.
#pragma once

#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__)) && !defined(SIS_BASELINE_ONLY)
#define SIS_X86 1
#endif

#define SIS_API extern "C" __attribute__((visibility("default")))

#define SIS_VECTOR_BYTES 16
namespace baseline {
#include SIS_KERNELS
}
#undef SIS_VECTOR_BYTES

#ifdef SIS_X86
#define SIS_VECTOR_BYTES 32
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#include SIS_KERNELS
}
#undef SIS_VECTOR_BYTES
#define SIS_VECTOR_BYTES 64
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,prefer-vector-width=512")
#endif
namespace avx512 {
#include SIS_KERNELS
}
#undef SIS_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#define SIS_CALL(call) \
    (code_path::active == 2 ? avx512::call : code_path::active == 1 ? avx2::call : baseline::call)
#else
#define SIS_CALL(call) baseline::call
#endif

namespace code_path {

inline const char* const NAMES[] = {"baseline", "avx2", "avx512"};

inline int best() {
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

inline int active = best();  // one for all sources of a library

// Take another path, for tests; false if this CPU lacks it.
inline bool choose(const char* name) {
    for (int i = 0; i <= best(); ++i)
        if (!strcmp(name, NAMES[i])) return active = i, true;
    return false;
}

}  // namespace code_path
