// The loops of the epilogue over pixels for one instruction set; see code_paths.h.
//
// Tensors are [n, c, s] with s the pixels of a plane: planar (s fastest, NCHW) or interleaved (c fastest, channels
// last). Work is cut into pieces that do not depend on the number of threads, so results do not either.

#include "pixel.h"

template <class A> struct Epilogue {
    int64_t n, c, s;
    const A *scale, *noise, *bias;    // [n or 1, c], [n or 1, s] or null, [c]
    int64_t scale_step, noise_step;   // from one sample to the next: 0 if shared
    A strength;
    Curve<A> curve;
};

// FAST: the hot activations, linear and leaky ReLU, as one branch-free line that the compiler vectorises. The others
// are calls: their cost is that of exp or tanh anyway, and inlined everywhere they would double the build time.
template <class A> SIS_SLOW A any_value(const Curve<A>& f, A v) { return curve_value(f, v); }
template <class A> SIS_SLOW A any_first(const Curve<A>& f, A v) { return curve_first(f, v); }
template <class A> SIS_SLOW A any_second(const Curve<A>& f, A v) { return curve_second(f, v); }

template <bool FAST, class A> SIS_FN A value_of(const Curve<A>& f, A v) {
    if (!FAST) return any_value(f, v);
    return curve_value(Curve<A>{LRELU, f.alpha, f.gain, f.clamp}, v);
}
template <bool FAST, class A> SIS_FN A first_of(const Curve<A>& f, A v) {
    if (!FAST) return any_first(f, v);
    return curve_first(Curve<A>{LRELU, f.alpha, f.gain, f.clamp}, v);
}

// A line of elements that share scale and bias (planar: pixels of one channel).
template <bool FAST, class T, class A>
SIS_FN void forward_pixels(Curve<A> f, int64_t count, A scale, A bias, A strength, const A* __restrict noise,
                           const T* __restrict x, T* __restrict y) {
    if (noise) {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i)
            narrow(value_of<FAST>(f, epilogue_input((A)widen(x[i]), scale, noise[i], strength, bias)), y[i]);
    } else {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i)
            narrow(value_of<FAST>(f, epilogue_input((A)widen(x[i]), scale, (A)0, (A)0, bias)), y[i]);
    }
}

// A line of elements that share a pixel (interleaved: channels of one pixel).
template <bool FAST, class T, class A>
SIS_FN void forward_channels(Curve<A> f, int64_t count, const A* __restrict scale, const A* __restrict bias, A strength,
                             A noise, const T* __restrict x, T* __restrict y) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i)
        narrow(value_of<FAST>(f, epilogue_input((A)widen(x[i]), scale[i], noise, strength, bias[i])), y[i]);
}

// Gradients: g = dy * curve'(v); dx = g * scale; the sums of g, g * x and g * noise are added to `sums`.
template <bool FAST, class T, class A>
SIS_FN void backward_pixels(Curve<A> f, int64_t count, A scale, A bias, A strength, const A* __restrict noise,
                            const T* __restrict dy, const T* __restrict x, T* __restrict dx, double* sums) {
    A sum = 0, with_x = 0, with_noise = 0;
    if (noise) {
#pragma omp simd reduction(+ : sum, with_x, with_noise)
        for (int64_t i = 0; i < count; ++i) {
            const A v = widen(x[i]);
            const A g = widen(dy[i]) * first_of<FAST>(f, epilogue_input(v, scale, noise[i], strength, bias));
            narrow(g * scale, dx[i]);
            sum += g, with_x += g * v, with_noise += g * noise[i];
        }
    } else {
#pragma omp simd reduction(+ : sum, with_x)
        for (int64_t i = 0; i < count; ++i) {
            const A v = widen(x[i]);
            const A g = widen(dy[i]) * first_of<FAST>(f, epilogue_input(v, scale, (A)0, (A)0, bias));
            narrow(g * scale, dx[i]);
            sum += g, with_x += g * v;
        }
    }
    sums[0] += sum, sums[1] += with_x, sums[2] += with_noise;
}

template <bool FAST, class T, class A>
SIS_FN void backward_channels(Curve<A> f, int64_t count, const A* __restrict scale, const A* __restrict bias, A strength,
                              A noise, const T* __restrict dy, const T* __restrict x, T* __restrict dx,
                              A* __restrict sum, A* __restrict with_x, A* __restrict with_noise) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
        const A v = widen(x[i]);
        const A g = widen(dy[i]) * first_of<FAST>(f, epilogue_input(v, scale[i], noise, strength, bias[i]));
        narrow(g * scale[i], dx[i]);
        sum[i] += g, with_x[i] += g * v, with_noise[i] += g * noise;
    }
}

template <class T, bool FAST> void forward_planar(const Epilogue<typename Math<T>::type> e, const T* x, T* y) {
#pragma omp parallel for schedule(static) if (e.n * e.c * e.s > GRAIN)
    for (int64_t row = 0; row < e.n * e.c; ++row)
        forward_pixels<FAST>(e.curve, e.s, e.scale[row / e.c * e.scale_step + row % e.c], e.bias[row % e.c], e.strength,
                             e.noise ? e.noise + row / e.c * e.noise_step : nullptr, x + row * e.s, y + row * e.s);
}

template <class T, bool FAST>
void forward_interleaved(const Epilogue<typename Math<T>::type> e, int64_t chunk, const T* x, T* y) {
    const int64_t chunks = (e.s + chunk - 1) / chunk;
#pragma omp parallel for schedule(static) if (e.n * e.c * e.s > GRAIN)
    for (int64_t piece = 0; piece < e.n * chunks; ++piece) {
        const int64_t sample = piece / chunks, first = piece % chunks * chunk;
        const int64_t last = first + chunk < e.s ? first + chunk : e.s;
        for (int64_t p = first; p < last; ++p) {
            const int64_t at = (sample * e.s + p) * e.c;
            forward_channels<FAST>(e.curve, e.c, e.scale + sample * e.scale_step, e.bias, e.strength,
                                   e.noise ? e.noise[sample * e.noise_step + p] : 0, x + at, y + at);
        }
    }
}

// `sums` is [n, 3, c] for planar and [n * chunks, 3, c] for interleaved tensors.
template <class T, bool FAST>
void backward_planar(const Epilogue<typename Math<T>::type> e, const T* dy, const T* x, T* dx,
                     typename Math<T>::type* sums) {
    using A = typename Math<T>::type;
    constexpr int64_t PART = 4096;  // short float sums, added up in double
#pragma omp parallel for schedule(static) if (e.n * e.c * e.s > GRAIN)
    for (int64_t row = 0; row < e.n * e.c; ++row) {
        const int64_t sample = row / e.c, channel = row % e.c;
        double total[3] = {0, 0, 0};
        for (int64_t first = 0; first < e.s; first += PART) {
            const int64_t count = e.s - first < PART ? e.s - first : PART, at = row * e.s + first;
            backward_pixels<FAST>(e.curve, count, e.scale[sample * e.scale_step + channel], e.bias[channel], e.strength,
                                  e.noise ? e.noise + sample * e.noise_step + first : nullptr, dy + at, x + at, dx + at,
                                  total);
        }
        for (int k = 0; k < 3; ++k) sums[(sample * 3 + k) * e.c + channel] = (A)total[k];
    }
}

template <class T, bool FAST>
void backward_interleaved(const Epilogue<typename Math<T>::type> e, int64_t chunk, const T* dy, const T* x, T* dx,
                          typename Math<T>::type* sums) {
    using A = typename Math<T>::type;
    const int64_t chunks = (e.s + chunk - 1) / chunk;
#pragma omp parallel for schedule(static) if (e.n * e.c * e.s > GRAIN)
    for (int64_t piece = 0; piece < e.n * chunks; ++piece) {
        const int64_t sample = piece / chunks, first = piece % chunks * chunk;
        const int64_t last = first + chunk < e.s ? first + chunk : e.s;
        A* sum = sums + piece * 3 * e.c;
        for (int64_t i = 0; i < 3 * e.c; ++i) sum[i] = 0;
        for (int64_t p = first; p < last; ++p) {
            const int64_t at = (sample * e.s + p) * e.c;
            backward_channels<FAST>(e.curve, e.c, e.scale + sample * e.scale_step, e.bias, e.strength,
                                    e.noise ? e.noise[sample * e.noise_step + p] : 0, dy + at, x + at, dx + at, sum,
                                    sum + e.c, sum + 2 * e.c);
        }
    }
}

// ---- from the untyped arguments of the C interface to the templates

template <class A> Curve<A> curve_of(const EpilogueArguments& a) {
    const A limit = a.clamp < 0 ? std::numeric_limits<A>::infinity() : (A)a.clamp;
    return {a.act, a.act == LINEAR ? (A)1 : (A)a.alpha, (A)a.gain, limit};  // linear: a leaky ReLU that does not leak
}

template <class A> Epilogue<A> typed(const EpilogueArguments& a) {
    const A strength = a.strength ? *(const A*)a.strength : (A)1;
    return {a.n, a.c, a.s, (const A*)a.scale, (const A*)a.noise, (const A*)a.bias, a.scale_step, a.noise_step, strength,
            curve_of<A>(a)};
}

template <class T, bool FAST> void forward_as(const EpilogueArguments& a, const void* x, void* y) {
    const auto e = typed<typename Math<T>::type>(a);
    if (a.interleaved) forward_interleaved<T, FAST>(e, a.chunk, (const T*)x, (T*)y);
    else forward_planar<T, FAST>(e, (const T*)x, (T*)y);
}

template <class T, bool FAST>
void backward_as(const EpilogueArguments& a, const void* dy, const void* x, void* dx, void* sums) {
    using A = typename Math<T>::type;
    const auto e = typed<A>(a);
    if (a.interleaved) backward_interleaved<T, FAST>(e, a.chunk, (const T*)dy, (const T*)x, (T*)dx, (A*)sums);
    else backward_planar<T, FAST>(e, (const T*)dy, (const T*)x, (T*)dx, (A*)sums);
}

bool epilogue(const EpilogueArguments& a, const void* x, void* y) { SIS_BY_DTYPE(a.dtype, forward_as<T, true>(a, x, y)) }

bool epilogue_grad(const EpilogueArguments& a, const void* dy, const void* x, void* dx, void* sums) {
    SIS_BY_DTYPE(a.dtype, backward_as<T, true>(a, dy, x, dx, sums))
}

// ---- any activation: compiled once, since no path makes exp or tanh faster

#if SIS_VECTOR_BYTES == 16
// t times the first or second derivative of the curve at v, element by element.
template <class T> void derivative(const EpilogueArguments& a, int order, const T* t, const T* v, T* out) {
    using A = typename Math<T>::type;
    const Curve<A> f = curve_of<A>(a);
    const int64_t count = a.n * a.c * a.s;
#pragma omp parallel for schedule(static) if (count > GRAIN)
    for (int64_t i = 0; i < count; ++i) {
        const A at = widen(v[i]);
        narrow(widen(t[i]) * (order == 1 ? any_first(f, at) : any_second(f, at)), out[i]);
    }
}

bool any_epilogue(const EpilogueArguments& a, const void* x, void* y) {
    SIS_BY_DTYPE(a.dtype, forward_as<T, false>(a, x, y))
}

bool any_epilogue_grad(const EpilogueArguments& a, const void* dy, const void* x, void* dx, void* sums) {
    SIS_BY_DTYPE(a.dtype, backward_as<T, false>(a, dy, x, dx, sums))
}

bool curve(const EpilogueArguments& a, int order, const void* t, const void* v, void* out) {
    SIS_BY_DTYPE(a.dtype, derivative(a, order, (const T*)t, (const T*)v, (T*)out))
}
#endif
