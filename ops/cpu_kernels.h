// The loops over pixels for one instruction set. cpu.cpp includes this file inside a namespace per set.
//
// Tensors are [n, c, s] with s the pixels of a plane: planar (s fastest, NCHW) or interleaved (c fastest, channels
// last). Work is cut into pieces that do not depend on the number of threads, so results do not either.

#include "pixel.h"

constexpr int64_t GRAIN = 16384;  // elements below which waking other threads costs more than it gains

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

// t times the first or second derivative of the curve at v, element by element.
template <class T>
void derivative(const Curve<typename Math<T>::type>& f, int order, int64_t count, const T* t, const T* v, T* out) {
    using A = typename Math<T>::type;
#pragma omp parallel for schedule(static) if (count > GRAIN)
    for (int64_t i = 0; i < count; ++i) {
        const A at = widen(v[i]);
        narrow(widen(t[i]) * (order == 1 ? any_first(f, at) : any_second(f, at)), out[i]);
    }
}

struct Image {
    int64_t n, c, h, w;                                // steps in elements, from one index to the next
};

template <class T> struct Filtering {
    using A = typename Math<T>::type;
    int64_t n, c;
    int out_h, out_w;
    Axis y, x;
    Image from, to;
    const A* filter;
    const T* in;
    T* out;
};

// VECTOR elements fill a register of this instruction set; BLOCK of them stay in registers over all taps.
constexpr int BLOCK = 32;
template <class A> struct Vector {
    static constexpr int LANES = SIS_VECTOR_BYTES / (int)sizeof(A);
    typedef A type __attribute__((vector_size(SIS_VECTOR_BYTES)));
};

// Add weight * (BLOCK elements from `in` on) to the sums.
template <class T, class A>
SIS_FN void add_block(typename Vector<A>::type (&sums)[BLOCK / Vector<A>::LANES], A weight, const T* in) {
    constexpr int LANES = Vector<A>::LANES;
    if constexpr (std::is_same<T, A>::value) {
#pragma GCC unroll 16
        for (int k = 0; k < BLOCK / LANES; ++k) {
            typename Vector<A>::type v;
            memcpy(&v, in + k * LANES, sizeof v);
            sums[k] += v * weight;
        }
    } else {
        A wide[BLOCK];
#pragma omp simd
        for (int k = 0; k < BLOCK; ++k) wide[k] = widen(in[k]);
#pragma GCC unroll 16
        for (int k = 0; k < BLOCK / LANES; ++k) {
            typename Vector<A>::type v;
            memcpy(&v, wide + k * LANES, sizeof v);
            sums[k] += v * weight;
        }
    }
}

template <class T, class A>
SIS_FN void filter_block(const Filtering<T>& f, const T* in, const Taps& ty, const Taps& tx, A (&result)[BLOCK]) {
    typename Vector<A>::type sums[BLOCK / Vector<A>::LANES] = {};
    for (int j = 0; j < ty.count; ++j) {
        const T* row = in + (int64_t)(ty.at + j) * f.from.h + (int64_t)tx.at * f.from.w;
        const A* line = f.filter + (int64_t)(ty.tap + j * f.y.up) * f.x.taps + tx.tap;
        for (int i = 0; i < tx.count; ++i) add_block<T, A>(sums, line[i * f.x.up], row + i * f.from.w);
    }
    memcpy(result, sums, sizeof result);
}

// Channels of one output pixel, from `c` on.
template <class T>
SIS_FN void filter_channels(const Filtering<T>& f, int64_t c, const T* in, T* out, const Taps& ty, const Taps& tx) {
    using A = typename Math<T>::type;
    for (; c + BLOCK <= f.c; c += BLOCK) {
        A result[BLOCK];
        filter_block<T, A>(f, in + c, ty, tx, result);
        for (int k = 0; k < BLOCK; ++k) narrow(result[k], out[c + k]);
    }
    for (; c < f.c; ++c) narrow(filter_pixel(in + c, f.from.h, f.from.w, f.filter, f.y, f.x, ty, tx), out[c]);
}

// The filter as a column times a row, which is what almost all of them are; empty where it is not.
template <class A> struct Factors {
    std::vector<A> column, row;

    Factors(const A* filter, int height, int width) {
        int64_t pivot = 0;
        for (int64_t i = 0; i < (int64_t)height * width; ++i)
            if (fabs(filter[i]) > fabs(filter[pivot])) pivot = i;
        const A largest = fabs(filter[pivot]), close = 8 * std::numeric_limits<A>::epsilon() * largest;
        if (!(largest > 0)) return;
        for (int y = 0; y < height; ++y) column.push_back(filter[y * width + pivot % width]);
        for (int x = 0; x < width; ++x) row.push_back(filter[pivot / width * width + x] / filter[pivot]);
        for (int64_t i = 0; i < (int64_t)height * width; ++i)
            if (!(fabs(column[i / width] * row[i % width] - filter[i]) <= close)) column.clear(), row.clear(), i = INT32_MAX;
    }
};

// BLOCK channels of one line of output: down the columns into `space`, [input width, BLOCK], then along the row.
template <class T, class A>
SIS_FN void filter_separably(const Filtering<T>& f, const Factors<A>& factors, const T* in, T* out, const Taps& ty, A* space) {
    typedef typename Vector<A>::type V;
    constexpr int PARTS = BLOCK / Vector<A>::LANES;
    for (int x = 0; x < f.x.in; ++x) {
        V sums[PARTS] = {};
        for (int j = 0; j < ty.count; ++j)
            add_block<T, A>(sums, factors.column[ty.tap + j * f.y.up], in + (ty.at + j) * f.from.h + x * f.from.w);
        memcpy(space + (int64_t)x * BLOCK, sums, sizeof sums);
    }
    for (int ox = 0; ox < f.out_w; ++ox) {
        const Taps tx = taps_at(f.x, ox);
        V sums[PARTS] = {};
        for (int i = 0; i < tx.count; ++i)
            add_block<A, A>(sums, factors.row[tx.tap + i * f.x.up], space + (int64_t)(tx.at + i) * BLOCK);
        A result[BLOCK];
        memcpy(result, sums, sizeof result);
        for (int k = 0; k < BLOCK; ++k) narrow(result[k], out[ox * f.to.w + k]);
    }
}

template <class T> void filter_interleaved(const Filtering<T> f) {
    using A = typename Math<T>::type;
    const Factors<A> factors(f.filter, f.y.taps, f.x.taps);
    const int64_t blocks = factors.row.empty() ? 0 : f.c / BLOCK, rest = blocks * BLOCK;
#pragma omp parallel if (f.n * f.c * f.out_h * f.out_w > GRAIN)
    {
        std::vector<A> space(blocks ? (size_t)f.x.in * BLOCK : 0);
#pragma omp for schedule(static)
        for (int64_t line = 0; line < f.n * f.out_h; ++line) {
            const int64_t sample = line / f.out_h, oy = line % f.out_h;
            const Taps ty = taps_at(f.y, (int)oy);
            const T* in = f.in + sample * f.from.n;
            T* out = f.out + sample * f.to.n + oy * f.to.h;
            for (int64_t c = 0; c < rest; c += BLOCK)
                filter_separably<T, A>(f, factors, in + c, out + c, ty, space.data());
            if (rest == f.c) continue;
            for (int ox = 0; ox < f.out_w; ++ox)
                filter_channels(f, rest, in, out + ox * f.to.w, ty, taps_at(f.x, ox));
        }
    }
}

// The lines of input that one line of output needs, widened, with zeros around them and split into `step` interleaved
// parts, so that columns whose input samples are `step` apart read them side by side. Output columns that share their
// taps are `period` apart. The axis is that of the line with its zeros, so taps_at never meets an end of it.
template <class A> struct Lines {
    int period, step, margin, length;
    Axis axis;

    Lines(const Axis& x, int out) {
        int divisor = x.up, rest = x.down;
        while (rest) { const int next = divisor % rest; divisor = rest, rest = next; }
        period = x.up / divisor, step = x.down / divisor;
        margin = (x.pad > 0 ? x.pad / x.up : 0) + 1;
        const int64_t reach = (int64_t)(out + BLOCK * period) * x.down + (x.pad < 0 ? -x.pad : 0);
        length = (int)(reach / x.up) + x.taps + x.in + margin + 2;
        length = (length + step - 1) / step * step;
        axis = Axis{length, x.taps, x.up, x.down, x.pad - margin * x.up};
    }
    template <class T> void fill(A* line, const T* row, int count) const {
        for (int part = 0; part < step; ++part) {  // sample i lies at margin + i = place * step + part
            A* to = line + part * (length / step);
            int place = margin / step + (part < margin % step);
            for (int i = place * step + part - margin; i < count; i += step) to[place++] = widen(row[i]);
        }
    }
};

template <class T, class A>
SIS_FN void filter_line(const Filtering<T>& f, const Lines<A>& lines, const A* space, const Taps& ty, T* out) {
    constexpr int LANES = Vector<A>::LANES;
    for (int phase = 0; phase < lines.period && phase < f.out_w; ++phase) {
        const Taps tx = taps_at(lines.axis, phase);
        const int columns = (f.out_w - phase + lines.period - 1) / lines.period;
        for (int first = 0; first < columns; first += BLOCK) {
            typename Vector<A>::type sums[BLOCK / LANES] = {};
            for (int j = 0; j < ty.count; ++j) {
                const A* weights = f.filter + (int64_t)(ty.tap + j * f.y.up) * f.x.taps + tx.tap;
                for (int i = 0; i < tx.count; ++i) {
                    const int at = tx.at + i;
                    const int part = at % lines.step * (lines.length / lines.step) + at / lines.step;
                    add_block<A, A>(sums, weights[i * f.x.up], space + (int64_t)j * lines.length + part + first);
                }
            }
            A result[BLOCK];
            memcpy(result, sums, sizeof result);
            const int count = columns - first < BLOCK ? columns - first : BLOCK;
            T* to = out + phase + first * lines.period;
            for (int k = 0; k < count; ++k) narrow(result[k], to[k * lines.period]);
        }
    }
}

template <class T> void filter_planar(const Filtering<T> f) {
    using A = typename Math<T>::type;
    const Lines<A> lines(f.x, f.out_w);
#pragma omp parallel if (f.n * f.c * f.out_h * f.out_w > GRAIN)
    {
        std::vector<A> space((size_t)f.y.taps * lines.length);
#pragma omp for schedule(static)
        for (int64_t plane = 0; plane < f.n * f.c; ++plane) {
            const T* in = f.in + plane / f.c * f.from.n + plane % f.c * f.from.c;
            T* out = f.out + plane / f.c * f.to.n + plane % f.c * f.to.c;
            for (int oy = 0; oy < f.out_h; ++oy) {
                const Taps ty = taps_at(f.y, oy);
                for (int j = 0; j < ty.count; ++j)
                    lines.fill(space.data() + (int64_t)j * lines.length, in + (ty.at + j) * f.from.h, f.x.in);
                filter_line<T, A>(f, lines, space.data(), ty, out + (int64_t)oy * f.to.h);
            }
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

template <class T> struct Typed {
    static void forward(const EpilogueArguments& a, const void* x, void* y) {
        (a.act == LINEAR || a.act == LRELU) ? forward_as<T, true>(a, x, y) : forward_as<T, false>(a, x, y);
    }
    static void backward(const EpilogueArguments& a, const void* dy, const void* x, void* dx, void* sums) {
        (a.act == LINEAR || a.act == LRELU) ? backward_as<T, true>(a, dy, x, dx, sums)
                                            : backward_as<T, false>(a, dy, x, dx, sums);
    }
    static void derive(const EpilogueArguments& a, int order, const void* t, const void* v, void* out) {
        derivative<T>(curve_of<typename Math<T>::type>(a), order, a.n * a.c * a.s, (const T*)t, (const T*)v, (T*)out);
    }
    static void filter(const FilterArguments& a, const void* x, void* y) {
        const Filtering<T> f{a.n, a.c, a.out_h, a.out_w,
                             {a.h, a.taps_y, a.up_y, a.down_y, a.pad_y}, {a.w, a.taps_x, a.up_x, a.down_x, a.pad_x},
                             {a.from[0], a.from[1], a.from[2], a.from[3]}, {a.to[0], a.to[1], a.to[2], a.to[3]},
                             (const typename Math<T>::type*)a.filter, (const T*)x, (T*)y};
        a.from[1] == 1 && a.to[1] == 1 && a.c > 1 ? filter_interleaved(f) : filter_planar(f);
    }
};

// dtype: 0 float32, 1 float64, 2 float16, 3 bfloat16; false for anything else
#define SIS_BY_DTYPE(dtype, call)                          \
    switch (dtype) {                                       \
        case 0: Typed<float>::call; return true;             \
        case 1: Typed<double>::call; return true;            \
        case 2: Typed<Half>::call; return true;              \
        case 3: Typed<BFloat>::call; return true;            \
        default: return false;                             \
    }

bool epilogue(const EpilogueArguments& a, const void* x, void* y) { SIS_BY_DTYPE(a.dtype, forward(a, x, y)) }
bool epilogue_grad(const EpilogueArguments& a, const void* dy, const void* x, void* dx, void* sums) {
    SIS_BY_DTYPE(a.dtype, backward(a, dy, x, dx, sums))
}
bool curve(const EpilogueArguments& a, int order, const void* t, const void* v, void* out) {
    SIS_BY_DTYPE(a.dtype, derive(a, order, t, v, out))
}
bool upfirdn2d(const FilterArguments& a, const void* x, void* y) { SIS_BY_DTYPE(a.dtype, filter(a, x, y)) }

#undef SIS_BY_DTYPE
