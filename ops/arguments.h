// What the C interface takes: plain structures, the same for the CPU and the CUDA library. native.py mirrors them.
#pragma once
#include <stdint.h>

struct EpilogueArguments {
    int32_t dtype;        // of x, y and their gradients: 0 float32, 1 float64, 2 float16, 3 bfloat16
    int32_t interleaved;  // 0: x is [n, c, s] in memory, 1: [n, s, c]
    int64_t n, c, s;
    // double for float64, float for all others:
    const void* scale;     // [n, c], or [c] with scale_step 0
    const void* noise;     // [n, s], or [s] with noise_step 0; null for none
    const void* strength;  // [1], factor on the noise; null for 1
    const void* bias;      // [c]
    int64_t scale_step, noise_step;
    int64_t chunk;         // pixels per row of the sums; planar tensors have one row per sample
    int32_t act;           // position of the activation's name in activations.py
    double alpha, gain;
    double clamp;          // negative: none
};

struct FilterArguments {
    int32_t dtype;
    int64_t n, c;
    int32_t h, w, out_h, out_w;
    int64_t from[4], to[4];  // steps in elements of input and output: sample, channel, row, column
    int32_t taps_y, taps_x;
    int32_t up_y, up_x, down_y, down_x, pad_y, pad_x;  // pad: zeros before the first row and column; negative crops
    const void* filter;      // [taps_y, taps_x], double for float64, float for all others; a correlation
};
