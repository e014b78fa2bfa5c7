// The CUDA library: the C interface of the CPU library on a device and a stream, with the arithmetic of pixel.h.
//
// It knows nothing of torch. All pointers are device pointers; calls only enqueue work on `stream` and return at once.

#include <stdint.h>
#include <string.h>

#include <limits>

#include <cuda_runtime.h>

#include "arguments.h"

#define SIS_FN __host__ __device__ __forceinline__

namespace {

#include "pixel.h"

constexpr int THREADS = 256;

template <class A> struct Epilogue {
    int64_t n, c, s, chunk;
    const A *scale, *noise, *strength, *bias;
    int64_t scale_step, noise_step;
    Curve<A> curve;

    // v of pixel `p` of channel `channel` of `sample`, from x there
    __device__ A input(A x, int64_t sample, int64_t channel, int64_t p) const {
        const A added = noise ? noise[sample * noise_step + p] : (A)0;
        return epilogue_input(x, scale[sample * scale_step + channel], added, strength ? *strength : (A)1, bias[channel]);
    }
};

template <class A> Curve<A> curve_of(const EpilogueArguments& a) {
    const A limit = a.clamp < 0 ? std::numeric_limits<A>::infinity() : (A)a.clamp;
    return {a.act, (A)a.alpha, (A)a.gain, limit};
}

template <class A> Epilogue<A> typed(const EpilogueArguments& a) {
    return {a.n, a.c, a.s, a.chunk, (const A*)a.scale, (const A*)a.noise, (const A*)a.strength, (const A*)a.bias,
            a.scale_step, a.noise_step, curve_of<A>(a)};
}

template <class T>
__global__ void forward_kernel(Epilogue<typename Math<T>::type> e, bool interleaved, const T* x, T* y) {
    using A = typename Math<T>::type;
    const int64_t total = e.n * e.c * e.s, stride = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < total; i += stride) {
        const int64_t sample = i / (e.c * e.s), rest = i % (e.c * e.s);
        const int64_t channel = interleaved ? rest % e.c : rest / e.s, p = interleaved ? rest / e.c : rest % e.s;
        narrow(curve_value(e.curve, e.input((A)widen(x[i]), sample, channel, p)), y[i]);
    }
}

// g * scale to dx; the three products whose sums are wanted to `add`.
template <class T, class A>
__device__ void backward_pixel(const Epilogue<A>& e, const T* dy, const T* x, T* dx, int64_t i, int64_t sample,
                               int64_t channel, int64_t p, A (&add)[3]) {
    const A v = widen(x[i]);
    const A g = widen(dy[i]) * curve_first(e.curve, e.input(v, sample, channel, p));
    narrow(g * e.scale[sample * e.scale_step + channel], dx[i]);
    add[0] += g, add[1] += g * v;
    if (e.noise) add[2] += g * e.noise[sample * e.noise_step + p];
}

// Planar: one block per plane; its threads' sums meet in shared memory, in the same order every time.
template <class T>
__global__ void backward_planar_kernel(Epilogue<typename Math<T>::type> e, const T* dy, const T* x, T* dx,
                                       typename Math<T>::type* sums) {
    using A = typename Math<T>::type;
    __shared__ A shared[3][THREADS];
    const int64_t row = blockIdx.x, sample = row / e.c, channel = row % e.c;
    A add[3] = {0, 0, 0};
    for (int64_t p = threadIdx.x; p < e.s; p += THREADS)
        backward_pixel<T, A>(e, dy, x, dx, row * e.s + p, sample, channel, p, add);
    for (int k = 0; k < 3; ++k) shared[k][threadIdx.x] = add[k];
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            for (int k = 0; k < 3; ++k) shared[k][threadIdx.x] += shared[k][threadIdx.x + half];
    }
    if (threadIdx.x == 0)
        for (int k = 0; k < 3; ++k) sums[(sample * 3 + k) * e.c + channel] = shared[k][0];
}

// Interleaved: one block per chunk of pixels, one thread per channel, so that neighbours read neighbours.
template <class T>
__global__ void backward_interleaved_kernel(Epilogue<typename Math<T>::type> e, int64_t chunks, const T* dy, const T* x,
                                            T* dx, typename Math<T>::type* sums) {
    using A = typename Math<T>::type;
    const int64_t piece = blockIdx.x, sample = piece / chunks, first = piece % chunks * e.chunk;
    const int64_t last = first + e.chunk < e.s ? first + e.chunk : e.s;
    for (int64_t channel = threadIdx.x; channel < e.c; channel += THREADS) {
        A add[3] = {0, 0, 0};
        for (int64_t p = first; p < last; ++p)
            backward_pixel<T, A>(e, dy, x, dx, (sample * e.s + p) * e.c + channel, sample, channel, p, add);
        for (int k = 0; k < 3; ++k) sums[(piece * 3 + k) * e.c + channel] = add[k];
    }
}

template <class T>
__global__ void curve_kernel(Curve<typename Math<T>::type> f, int order, int64_t count, const T* t, const T* v, T* out) {
    using A = typename Math<T>::type;
    const int64_t stride = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += stride) {
        const A at = widen(v[i]);
        narrow(widen(t[i]) * (order == 1 ? curve_first(f, at) : curve_second(f, at)), out[i]);
    }
}

template <class T> __global__ void filter_kernel(FilterArguments a, const T* x, T* y) {
    using A = typename Math<T>::type;
    const Axis ay{a.h, a.taps_y, a.up_y, a.down_y, a.pad_y}, ax{a.w, a.taps_x, a.up_x, a.down_x, a.pad_x};
    const int64_t pixels = (int64_t)a.out_h * a.out_w, total = a.n * a.c * pixels;
    const bool interleaved = a.to[1] == 1 && a.c > 1;
    const int64_t stride = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < total; i += stride) {
        const int64_t sample = i / (a.c * pixels), rest = i % (a.c * pixels);
        const int64_t channel = interleaved ? rest % a.c : rest / pixels, p = interleaved ? rest / a.c : rest % pixels;
        const int64_t oy = p / a.out_w, ox = p % a.out_w;
        const A sum = filter_pixel(x + sample * a.from[0] + channel * a.from[1], a.from[2], a.from[3],
                                   (const A*)a.filter, ay, ax, taps_at(ay, (int)oy), taps_at(ax, (int)ox));
        narrow(sum, y[sample * a.to[0] + channel * a.to[1] + oy * a.to[2] + ox * a.to[3]]);
    }
}

unsigned blocks_for(int64_t total) {  // the kernels stride, so a bounded grid serves any size
    const int64_t blocks = (total + THREADS - 1) / THREADS;
    return (unsigned)(blocks < 65536 ? blocks : 65536);
}

template <class T> struct Typed {
    using A = typename Math<T>::type;
    static void forward(const EpilogueArguments& a, const void* x, void* y, cudaStream_t stream) {
        forward_kernel<T><<<blocks_for(a.n * a.c * a.s), THREADS, 0, stream>>>(typed<A>(a), a.interleaved, (const T*)x, (T*)y);
    }
    static void backward(const EpilogueArguments& a, const void* dy, const void* x, void* dx, void* sums, cudaStream_t stream) {
        if (a.interleaved) {
            const int64_t chunks = (a.s + a.chunk - 1) / a.chunk;
            backward_interleaved_kernel<T><<<(unsigned)(a.n * chunks), THREADS, 0, stream>>>(
                typed<A>(a), chunks, (const T*)dy, (const T*)x, (T*)dx, (A*)sums);
        } else {
            backward_planar_kernel<T><<<(unsigned)(a.n * a.c), THREADS, 0, stream>>>(typed<A>(a), (const T*)dy, (const T*)x,
                                                                                  (T*)dx, (A*)sums);
        }
    }
    static void derive(const EpilogueArguments& a, int order, const void* t, const void* v, void* out, cudaStream_t stream) {
        const int64_t count = a.n * a.c * a.s;
        curve_kernel<T><<<blocks_for(count), THREADS, 0, stream>>>(curve_of<A>(a), order, count, (const T*)t, (const T*)v,
                                                                  (T*)out);
    }
    static void filter(const FilterArguments& a, const void* x, void* y, cudaStream_t stream) {
        const int64_t total = a.n * a.c * a.out_h * a.out_w;
        filter_kernel<T><<<blocks_for(total), THREADS, 0, stream>>>(a, (const T*)x, (T*)y);
    }
};

}  // namespace

#define SIS_API extern "C" __attribute__((visibility("default")))

// 1 for a type it does not know, 0 for success, else CUDA's error code plus 1000
#define SIS_BY_DTYPE(dtype, call)                  \
    switch (dtype) {                               \
        case 0: Typed<float>::call; break;         \
        case 1: Typed<double>::call; break;        \
        case 2: Typed<Half>::call; break;          \
        case 3: Typed<BFloat>::call; break;        \
        default: return 1;                         \
    }                                              \
    const cudaError_t error = cudaGetLastError(); \
    return error == cudaSuccess ? 0 : 1000 + (int)error;

SIS_API int sis_version() { return 1; }

SIS_API const char* sis_path() { return "cuda"; }

SIS_API int sis_choose_path(const char*) { return 0; }

SIS_API int sis_epilogue(const EpilogueArguments* a, const void* x, void* y, void* stream) {
    SIS_BY_DTYPE(a->dtype, forward(*a, x, y, (cudaStream_t)stream))
}

SIS_API int sis_epilogue_grad(const EpilogueArguments* a, const void* dy, const void* x, void* dx, void* sums, void* stream) {
    SIS_BY_DTYPE(a->dtype, backward(*a, dy, x, dx, sums, (cudaStream_t)stream))
}

SIS_API int sis_curve(const EpilogueArguments* a, int order, const void* t, const void* v, void* out, void* stream) {
    SIS_BY_DTYPE(a->dtype, derive(*a, order, t, v, out, (cudaStream_t)stream))
}

SIS_API int sis_upfirdn2d(const FilterArguments* a, const void* x, void* y, void* stream) {
    SIS_BY_DTYPE(a->dtype, filter(*a, x, y, (cudaStream_t)stream))
}
