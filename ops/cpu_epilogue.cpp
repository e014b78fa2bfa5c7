// The CPU library, first part: bias, activation and the epilogue of a modulated convolution. Knows nothing of torch.

#include "cpu.h"

#define SIS_KERNELS "epilogue_kernels.h"
#include "code_paths.h"

// Every function returns 0, or 1 for arguments it does not know; it never throws and keeps no pointer.

SIS_API int sis_version() { return 1; }

SIS_API const char* sis_path() { return code_path::NAMES[code_path::active]; }

SIS_API int sis_choose_path(const char* name) { return code_path::choose(name); }

// Linear and leaky ReLU are vectorised. The cost of the others is that of exp or tanh on any path.
static bool vectorised(const EpilogueArguments* a) { return a->act == baseline::LINEAR || a->act == baseline::LRELU; }

SIS_API int sis_epilogue(const EpilogueArguments* a, const void* x, void* y, void*) {
    return !(vectorised(a) ? SIS_CALL(epilogue(*a, x, y)) : baseline::any_epilogue(*a, x, y));
}

SIS_API int sis_epilogue_grad(const EpilogueArguments* a, const void* dy, const void* x, void* dx, void* sums, void*) {
    return !(vectorised(a) ? SIS_CALL(epilogue_grad(*a, dy, x, dx, sums))
                           : baseline::any_epilogue_grad(*a, dy, x, dx, sums));
}

SIS_API int sis_curve(const EpilogueArguments* a, int order, const void* t, const void* v, void* out, void*) {
    return !baseline::curve(*a, order, t, v, out);
}
