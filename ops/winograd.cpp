// Layers of the synthesis network for inference: a C interface that knows nothing of torch, float32, channels last.

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")  // small loops over registers must be unrolled whole, whatever the build's level
#endif

#include <stdint.h>

#include "winograd.h"

#ifdef __clang__
#define SIS_BASELINE_ONLY
#endif
#define SIS_KERNELS "winograd_kernels.h"
#include "code_paths.h"

namespace {

// The transforms of the weights, in double: rows of POINTS_3 for a kernel of 3, of POINTS_2 for one of 2.
const double POINTS_3[6][3] = {{1. / 4, 0, 0},           {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6},
                               {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {0, 0, 1}};
// even outputs read cells i - 1 and i, through taps 2 and 0 of the kernel; odd ones cell i through tap 1
const double UP_POINTS[6][3] = {{0, 0, 1. / 2},       {-1. / 2, 0, -1. / 2}, {1. / 6, 0, -1. / 6},
                                {1. / 3, 0, 1. / 6}, {1, 0, 0},             {0, 1, 0}};

int64_t blocks_of(int64_t tiles, int64_t most) { return (tiles + most - 1) / most; }

}  // namespace

// Functions return 0, or 1 for sizes they do not take; they never throw and keep no pointer.
#pragma GCC visibility push(default)
extern "C" {

const char* sis_winograd_path() { return code_path::NAMES[code_path::active]; }

int sis_winograd_choose_path(const char* name) { return code_path::choose(name); }

// weight [out, in, 3, 3] to panels [matrices][out / 16][in][16], times gain; 36 matrices, for up 41: five for the edges.
int sis_winograd_pack(const float* weight, int64_t in, int64_t out, int32_t up, float gain, float* to) {
    if (in % 16 || out % 16) return 1;
    const int edges[5] = {6, 7, 8, 2, 5};  // the kernel's last row, and the rest of its last column
    const double(*points)[3] = up ? UP_POINTS : POINTS_3;
#pragma omp parallel for
    for (int64_t panel = 0; panel < out / 16; ++panel)
        for (int64_t c = 0; c < in; ++c) {
            double kernel[9][16], rows[6][3][16];  // sixteen outputs side by side
            for (int lane = 0; lane < 16; ++lane)
                for (int k = 0; k < 9; ++k) kernel[k][lane] = weight[((panel * 16 + lane) * in + c) * 9 + k];
            for (int p = 0; p < 6; ++p)
                for (int k = 0; k < 3; ++k)
#pragma omp simd
                    for (int lane = 0; lane < 16; ++lane)
                        rows[p][k][lane] = points[p][0] * kernel[k][lane] + points[p][1] * kernel[3 + k][lane] +
                                           points[p][2] * kernel[6 + k][lane];
            float* place = to + (panel * in + c) * 16;
            for (int p = 0; p < 6; ++p)
                for (int q = 0; q < 6; ++q) {
                    const int matrix = !up ? p * 6 + q : p < 5 ? (q < 5 ? p * 5 + q : 25 + p) : 30 + q;
                    float* line = place + matrix * in * out;
#pragma omp simd
                    for (int lane = 0; lane < 16; ++lane)
                        line[lane] = float(gain * (points[q][0] * rows[p][0][lane] + points[q][1] * rows[p][1][lane] +
                                                   points[q][2] * rows[p][2][lane]));
                }
            for (int k = 0; up && k < 5; ++k)
                for (int lane = 0; lane < 16; ++lane)
                    place[(36 + k) * in * out + lane] = float(gain * kernel[edges[k]][lane]);
        }
    return 0;
}

// Floats of working memory that a layer needs, per thread.
int64_t sis_winograd_room(const LayerArguments* a) {
    const int64_t edge = (a->height > a->width ? a->height : a->width) * (a->in + 3 * a->out);
    const int64_t tiles = (a->wide ? 81 : 36) * a->block * (a->in + a->out);
    return a->wide && edge > tiles ? edge : tiles;
}

int sis_winograd_layer(const LayerArguments* a) {
    if (a->in % 16 || a->out % 16 || a->block < 1) return 1;
    const int64_t tiles = a->n * ((a->height + 3) / 4) * ((a->width + 3) / 4), most = a->block;
    const int64_t blocks = blocks_of(tiles, most), edges = a->wide ? 2 * a->n : 0, room = sis_winograd_room(a);
    int64_t free_room = 0;
#pragma omp parallel num_threads(a->threads)
    {
        int64_t mine;
#pragma omp atomic capture
        mine = free_room++;
        float* here = a->room + mine * room;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < blocks + edges; ++i) {
            // sizes differ by one at most, so that no thread waits for a block of few tiles
            const int64_t first = tiles * i / blocks, count = tiles * (i + 1) / blocks - first;
            if (i >= blocks) SIS_CALL(up_edge(*a, (i - blocks) / 2, (i - blocks) % 2, here));
            else if (a->wide) SIS_CALL(up_tiles(*a, first, count, here));
            else SIS_CALL(conv_tiles(*a, first, count, here));
        }
        if (a->wide) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < a->n * 2 * a->height; ++i)
                SIS_CALL(up_filter_row(*a, i / (2 * a->height), i % (2 * a->height)));
        }
    }
    return 0;
}

int sis_winograd_rgb(const RgbArguments* a) {
    if (a->in % 16) return 1;
#pragma omp parallel for num_threads(a->threads) schedule(static)
    for (int64_t i = 0; i < a->n * a->height; ++i) SIS_CALL(rgb_row(*a, i / a->height, i % a->height));
    return 0;
}
}  // extern "C"
#pragma GCC visibility pop
