// The CPU library, second part: upfirdn2d. Knows nothing of torch.

#include "cpu.h"

#define SIS_KERNELS "filter_kernels.h"
#include "code_paths.h"

// Returns 0, or 1 for arguments it does not know; never throws and keeps no pointer.
SIS_API int sis_upfirdn2d(const FilterArguments* a, const void* x, void* y, void*) {
    return !SIS_CALL(upfirdn2d(*a, x, y));
}
