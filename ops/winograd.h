// What the functions of winograd.cpp take: plain structures; the Python side mirrors them.
#pragma once
#include <stdint.h>

struct LayerArguments {
    const float* x;             // [n, height, width, in]
    const float* weights;       // as sis_winograd_pack leaves them
    const float* styles;        // [n, in]
    const float* demodulation;  // [n, out]
    const float* noise;         // [height, width] of y, or null
    const float* bias;          // [out]
    float* y;                   // [n, height, width, out], for an upsampling layer twice as high and wide
    float* wide;                // upsampling layers: memory for [n, 2 * height + 1, 2 * width + 1, out]; others: null
    float* room;                // working memory: threads times sis_winograd_room floats
    int64_t n, height, width, in, out;
    int64_t block;              // tiles to work on at a time
    int32_t threads;
    float slope;                // of the leaky ReLU
    float clamp;                // largest absolute value of y; infinite: no limit
};

struct RgbArguments {
    const float* x;        // [n, height, width, in]
    const float* weights;  // [n, 3, in]
    const float* bias;     // [3]
    const float* skip;     // [n, 3, height / 2, width / 2], or null
    float* y;              // [n, 3, height, width]
    int64_t n, height, width, in;
    int32_t threads;
    float clamp;           // largest absolute value of what is added to the skip image; infinite: no limit
};
