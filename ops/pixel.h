// The arithmetic of one output pixel, shared by the CPU loops and the CUDA kernels.
//
// The CPU sources include this file once per instruction set, each time in another namespace, hence no include guard.
// SIS_FN marks every function: `static inline` on the CPU, `__host__ __device__` under nvcc. Storage types are float,
// double, Half and BFloat; arithmetic is done in Math<T>::type, which is double for double and float for the rest.

struct Half { uint16_t bits; };
struct BFloat { uint16_t bits; };

template <class T> struct Math { using type = float; };
template <> struct Math<double> { using type = double; };

SIS_FN uint32_t float_bits(float v) { uint32_t u; memcpy(&u, &v, 4); return u; }
SIS_FN float bits_float(uint32_t u) { float v; memcpy(&v, &u, 4); return v; }

// ---- storage to arithmetic and back; rounding is to the nearest even, as torch rounds

SIS_FN float widen(float v) { return v; }
SIS_FN double widen(double v) { return v; }
SIS_FN float widen(BFloat v) { return bits_float((uint32_t)v.bits << 16); }
SIS_FN float widen(Half v) {
    const uint32_t shifted = (uint32_t)(v.bits & 0x7fff) << 13;
    uint32_t u = float_bits(bits_float(shifted) * bits_float(0x77800000u));  // 2^112: rebias the exponent
    u |= shifted >= 0x0f800000u ? 0x7f800000u : 0u;                          // infinity and NaN stay what they are
    return bits_float(u | (uint32_t)(v.bits & 0x8000) << 16);
}

SIS_FN void narrow(float v, float& out) { out = v; }
SIS_FN void narrow(double v, double& out) { out = v; }
SIS_FN void narrow(float v, BFloat& out) {
    const uint32_t u = float_bits(v);
    const uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
    out.bits = (uint16_t)(v != v ? 0x7fc0u : rounded);
}
SIS_FN void narrow(float v, Half& out) {
    const uint32_t all = float_bits(v), u = all & 0x7fffffffu;
    const uint32_t normal = (u - 0x38000000u + 0xfffu + (u >> 13 & 1u)) >> 13;      // rebias, round to even
    const uint32_t tiny = float_bits(bits_float(u) + 0.5f) - 0x3f000000u;           // the adder rounds subnormals
    uint32_t h = u < 0x38800000u ? tiny : normal;
    h = u >= 0x47800000u ? (u > 0x7f800000u ? 0x7e00u : 0x7c00u) : h;               // too large, infinity, NaN
    out.bits = (uint16_t)(h | (all >> 16 & 0x8000u));
}

// ---- activation, gain, clamp: value, first and second derivative. The order of the names is that of activations.py.

enum Activation { LINEAR, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH };

template <class A> struct Curve {  // clamp(activation(v) * gain); clamp is infinite where there is none
    int act;
    A alpha, gain, clamp;
};

template <class A> SIS_FN A selu_scale() { return (A)1.0507009873554804934193349852946; }
template <class A> SIS_FN A selu_alpha() { return (A)1.6732632423543772848170429916717; }
template <class A> SIS_FN A logistic(A v) { return 1 / (1 + exp(-v)); }

template <class A> SIS_FN A activate(int act, A v, A alpha) {
    switch (act) {
        case RELU: return v < 0 ? (A)0 : v;
        case LRELU: return v > 0 ? v : v * alpha;
        case TANH: return tanh(v);
        case SIGMOID: return logistic(v);
        case ELU: return v > 0 ? v : alpha * expm1(v);
        case SELU: return selu_scale<A>() * (v > 0 ? v : selu_alpha<A>() * expm1(v));
        case SOFTPLUS: return (v > 0 ? v : (A)0) + log1p(exp(-(v > 0 ? v : -v)));
        case SWISH: return v * logistic(v);
        default: return v;
    }
}

template <class A> SIS_FN A activate_first(int act, A v, A alpha) {
    switch (act) {
        case RELU: return v > 0 ? (A)1 : (A)0;
        case LRELU: return v > 0 ? (A)1 : alpha;
        case TANH: { const A t = tanh(v); return 1 - t * t; }
        case SIGMOID: { const A s = logistic(v); return s * (1 - s); }
        case ELU: return v > 0 ? (A)1 : alpha * exp(v);
        case SELU: return selu_scale<A>() * (v > 0 ? (A)1 : selu_alpha<A>() * exp(v));
        case SOFTPLUS: return logistic(v);
        case SWISH: { const A s = logistic(v); return s * (1 + v * (1 - s)); }
        default: return (A)1;
    }
}

template <class A> SIS_FN A activate_second(int act, A v, A alpha) {
    switch (act) {
        case TANH: { const A t = tanh(v); return -2 * t * (1 - t * t); }
        case SIGMOID: { const A s = logistic(v); return s * (1 - s) * (1 - 2 * s); }
        case ELU: return v > 0 ? (A)0 : alpha * exp(v);
        case SELU: return v > 0 ? (A)0 : selu_scale<A>() * selu_alpha<A>() * exp(v);
        case SOFTPLUS: { const A s = logistic(v); return s * (1 - s); }
        case SWISH: { const A s = logistic(v); return s * (1 - s) * (2 + v * (1 - 2 * s)); }
        default: return (A)0;
    }
}

template <class A> SIS_FN A curve_value(const Curve<A>& f, A v) {
    const A y = activate(f.act, v, f.alpha) * f.gain;
    return y < -f.clamp ? -f.clamp : (y > f.clamp ? f.clamp : y);
}

template <class A> SIS_FN A curve_inside(const Curve<A>& f, A v) {  // 0 where the clamp cuts the gradient off, else 1
    const A y = activate(f.act, v, f.alpha) * f.gain;
    return y < -f.clamp || y > f.clamp ? (A)0 : (A)1;
}

template <class A> SIS_FN A curve_first(const Curve<A>& f, A v) {
    return activate_first(f.act, v, f.alpha) * f.gain * curve_inside(f, v);
}

template <class A> SIS_FN A curve_second(const Curve<A>& f, A v) {
    return activate_second(f.act, v, f.alpha) * f.gain * curve_inside(f, v);
}

// ---- the epilogue of a modulated convolution: what the curve is applied to

template <class A> SIS_FN A epilogue_input(A x, A scale, A noise, A strength, A bias) {
    return x * scale + (noise * strength + bias);
}

// ---- upfirdn2d along one axis: which taps of the filter meet which input samples at output position `o`

struct Axis {
    int in, taps;       // input samples, filter taps
    int up, down, pad;  // pad: zeros before the first sample of the upsampled line; negative crops
};

struct Taps {
    int tap, at, count;  // first tap, input sample it meets, how many: tap grows by `up` and the sample by one
};

SIS_FN int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// Sample i lies at i * up of the zero-filled line, the filter covers [start, start + taps).
SIS_FN Taps taps_at(const Axis& a, int o) {
    const int start = o * a.down - a.pad;
    int first = floor_div(start + a.up - 1, a.up);
    int last = floor_div(start + a.taps - 1, a.up);
    first = first < 0 ? 0 : first;
    last = last >= a.in ? a.in - 1 : last;
    return Taps{first * a.up - start, first, last < first ? 0 : last - first + 1};
}

// One output pixel: filter is [ky, kx] with kx fastest, already turned so that this is a correlation.
template <class T, class A>
SIS_FN A filter_pixel(const T* plane, int64_t row_step, int64_t column_step, const A* filter, const Axis& ay,
                      const Axis& ax, const Taps& ty, const Taps& tx) {
    A sum = 0;
    for (int j = 0; j < ty.count; ++j) {
        const T* row = plane + (int64_t)(ty.at + j) * row_step;
        const A* line = filter + (int64_t)(ty.tap + j * ay.up) * ax.taps;
        for (int i = 0; i < tx.count; ++i)
            sum += line[tx.tap + i * ax.up] * (A)widen(row[(int64_t)(tx.at + i) * column_step]);
    }
    return sum;
}
