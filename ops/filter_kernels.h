// The loops of upfirdn2d over pixels for one instruction set; see code_paths.h.
//
// A filter that is a column times a row, as almost all are, goes down the columns first and then along the row. Work is
// cut into lines or planes whatever the number of threads, so results do not depend on it.

#include "pixel.h"

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

// LANES elements fill a register of this instruction set; BLOCK of them, or NARROW where there are fewer, stay in
// registers over all taps.
constexpr int BLOCK = 32, NARROW = 16;
template <class A> struct Vector {
    static constexpr int LANES = SIS_VECTOR_BYTES / (int)sizeof(A);
    typedef A type __attribute__((vector_size(SIS_VECTOR_BYTES)));
};

// Add weight * (COUNT elements from `in` on) to the sums.
template <class T, class A, int COUNT>
SIS_FN void add_block(typename Vector<A>::type (&sums)[COUNT / Vector<A>::LANES], A weight, const T* in) {
    constexpr int LANES = Vector<A>::LANES;
    A wide[COUNT];
    const A* from = wide;
    if constexpr (std::is_same<T, A>::value) {
        from = in;
    } else {
#pragma omp simd
        for (int k = 0; k < COUNT; ++k) wide[k] = widen(in[k]);
    }
#pragma GCC unroll 16
    for (int k = 0; k < COUNT / LANES; ++k) {
        typename Vector<A>::type v;
        memcpy(&v, from + k * LANES, sizeof v);
        sums[k] += v * weight;
    }
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
            if (!(fabs(column[i / width] * row[i % width] - filter[i]) <= close)) {
                row.clear();
                return;
            }
    }
};

// Weights of `count` lines, `step` apart.
template <class A> struct Rows {
    const A* weights;
    int step, count;
};

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
    template <class T> void fill(A* line, const T* row, int count, int64_t row_step = 1) const {
        for (int part = 0; part < step; ++part) {  // sample i lies at margin + i = place * step + part
            A* to = line + part * (length / step);
            int place = margin / step + (part < margin % step);
            for (int i = place * step + part - margin; i < count; i += step) to[place++] = widen(row[i * row_step]);
        }
    }
};

// COUNT elements of a line of input rows added up with the weights of a column.
template <class T, class A, int COUNT>
SIS_FN void add_rows(const T* in, int64_t row_step, const A* weights, int weight_step, int rows, A* to) {
    typename Vector<A>::type sums[COUNT / Vector<A>::LANES] = {};
    for (int j = 0; j < rows; ++j) add_block<T, A, COUNT>(sums, weights[j * weight_step], in + j * row_step);
    memcpy(to, sums, sizeof sums);
}

// COUNT columns of output, or the first `count` of them, `step` elements apart.
template <class T, class A, int COUNT>
SIS_FN void filter_columns(const Lines<A>& lines, const A* space, const Rows<A>& rows, const Taps& tx, int count, T* to,
                           int64_t step) {
    typename Vector<A>::type sums[COUNT / Vector<A>::LANES] = {};
    for (int j = 0; j < rows.count; ++j)
        for (int i = 0; i < tx.count; ++i) {
            const int at = tx.at + i, part = at % lines.step * (lines.length / lines.step) + at / lines.step;
            const A weight = rows.weights[j * rows.step + tx.tap + i * lines.axis.up];
            add_block<A, A, COUNT>(sums, weight, space + (int64_t)j * lines.length + part);
        }
    A result[COUNT];
    memcpy(result, sums, sizeof result);
    if (step == 1 && count >= COUNT)
        for (int k = 0; k < COUNT; ++k) narrow(result[k], to[k]);
    else
        for (int k = 0; k < COUNT && k < count; ++k) narrow(result[k], to[k * step]);
}

template <class T, class A>
SIS_SLOW void filter_line(const Lines<A>& lines, const A* space, const Rows<A>& rows, int width, T* out,
                          int64_t column) {
    constexpr int LANES = Vector<A>::LANES;
    const int64_t step = lines.period * column;
    for (int phase = 0; phase < lines.period && phase < width; ++phase) {
        const Taps tx = taps_at(lines.axis, phase);
        const int columns = (width - phase + lines.period - 1) / lines.period;
        T* to = out + phase * column;
        int first = 0;
        for (; first + BLOCK <= columns; first += BLOCK)
            filter_columns<T, A, BLOCK>(lines, space + first, rows, tx, BLOCK, to + first * step, step);
        for (; first < columns; first += LANES)
            filter_columns<T, A, LANES>(lines, space + first, rows, tx, columns - first, to + first * step, step);
    }
}

// A line of output: from one line of input rows added up, or from as many lines as the filter is high.
template <class T, class A>
SIS_SLOW void filter_row(const Filtering<T>& f, const Factors<A>& factors, const Lines<A>& lines, const T* in,
                         const Taps& ty, A* space, A* line, T* out) {
    in += (int64_t)ty.at * f.from.h;
    if (factors.row.empty()) {
        for (int j = 0; j < ty.count; ++j)
            lines.fill(space + (int64_t)j * lines.length, in + j * f.from.h, f.x.in, f.from.w);
        const Rows<A> rows{f.filter + ty.tap * f.x.taps, f.y.up * f.x.taps, ty.count};
        return filter_line<T, A>(lines, space, rows, f.out_w, out, f.to.w);
    }
    const A* weights = factors.column.data() + ty.tap;
    if (lines.step == 1) line = space + lines.margin;  // nothing to split
    constexpr int LANES = Vector<A>::LANES;
    int x = 0;
    for (; f.from.w == 1 && x + BLOCK <= f.x.in; x += BLOCK)
        add_rows<T, A, BLOCK>(in + x, f.from.h, weights, f.y.up, ty.count, line + x);
    for (; f.from.w == 1 && x + LANES <= f.x.in; x += LANES)
        add_rows<T, A, LANES>(in + x, f.from.h, weights, f.y.up, ty.count, line + x);
    for (; x < f.x.in; ++x) {
        A sum = 0;
        for (int j = 0; j < ty.count; ++j) sum += weights[j * f.y.up] * (A)widen(in[j * f.from.h + x * f.from.w]);
        line[x] = sum;
    }
    if (lines.step > 1) lines.fill(space, line, f.x.in);
    filter_line<T, A>(lines, space, {factors.row.data(), 0, 1}, f.out_w, out, f.to.w);
}

// Each channel by itself, wherever its pixels lie in memory.
template <class T> void filter_planes(const Filtering<T> f, const Factors<typename Math<T>::type>& factors) {
    using A = typename Math<T>::type;
    const Lines<A> lines(f.x, f.out_w);
#pragma omp parallel if (f.n * f.c * f.out_h * f.out_w > GRAIN)
    {
        std::vector<A> space((size_t)(factors.row.empty() ? f.y.taps : 1) * lines.length), line(f.x.in);
#pragma omp for schedule(static)
        for (int64_t plane = 0; plane < f.n * f.c; ++plane) {
            const T* in = f.in + plane / f.c * f.from.n + plane % f.c * f.from.c;
            T* out = f.out + plane / f.c * f.to.n + plane % f.c * f.to.c;
            for (int oy = 0; oy < f.out_h; ++oy) {
                const Taps ty = taps_at(f.y, oy);
                T* row = out + oy * f.to.h;
                if (f.out_w < Vector<A>::LANES)  // fills no vector: pixel by pixel, as the GPU does
                    for (int ox = 0; ox < f.out_w; ++ox)
                        narrow(filter_pixel(in, f.from.h, f.from.w, f.filter, f.y, f.x, ty, taps_at(f.x, ox)),
                               row[ox * f.to.w]);
                else filter_row<T, A>(f, factors, lines, in, ty, space.data(), line.data(), row);
            }
        }
    }
}

// COUNT channels of one line of output: down the columns into `space`, [input width, COUNT], then along the row.
template <class T, class A, int COUNT>
SIS_SLOW void filter_separably(const Filtering<T>& f, const Factors<A>& factors, const T* in, T* out, const Taps& ty,
                               const Taps* columns, A* space) {
    typedef typename Vector<A>::type V;
    constexpr int PARTS = COUNT / Vector<A>::LANES;
    for (int x = 0; x < f.x.in; ++x) {
        V sums[PARTS] = {};
        for (int j = 0; j < ty.count; ++j)
            add_block<T, A, COUNT>(sums, factors.column[ty.tap + j * f.y.up],
                                   in + (ty.at + j) * f.from.h + x * f.from.w);
        memcpy(space + (int64_t)x * COUNT, sums, sizeof sums);
    }
    for (int ox = 0; ox < f.out_w; ++ox) {
        const Taps& tx = columns[ox];
        V sums[PARTS] = {};
        for (int i = 0; i < tx.count; ++i)
            add_block<A, A, COUNT>(sums, factors.row[tx.tap + i * f.x.up], space + (int64_t)(tx.at + i) * COUNT);
        A result[COUNT];
        memcpy(result, sums, sizeof result);
        for (int k = 0; k < COUNT; ++k) narrow(result[k], out[ox * f.to.w + k]);
    }
}

// The same with any filter.
template <class T, class A, int COUNT>
SIS_SLOW void filter_blocks(const Filtering<T>& f, const T* in, T* out, const Taps& ty, const Taps* columns) {
    for (int ox = 0; ox < f.out_w; ++ox) {
        const Taps& tx = columns[ox];
        typename Vector<A>::type sums[COUNT / Vector<A>::LANES] = {};
        for (int j = 0; j < ty.count; ++j)
            for (int i = 0; i < tx.count; ++i)
                add_block<T, A, COUNT>(sums, f.filter[(ty.tap + j * f.y.up) * f.x.taps + tx.tap + i * f.x.up],
                                       in + (ty.at + j) * f.from.h + (tx.at + i) * f.from.w);
        A result[COUNT];
        memcpy(result, sums, sizeof result);
        for (int k = 0; k < COUNT; ++k) narrow(result[k], out[ox * f.to.w + k]);
    }
}

// Channels that lie side by side in memory, NARROW of them at least.
template <class T> void filter_interleaved(const Filtering<T> f, const Factors<typename Math<T>::type>& factors) {
    using A = typename Math<T>::type;
    const bool separable = !factors.row.empty();
    std::vector<Taps> columns(f.out_w);
    for (int ox = 0; ox < f.out_w; ++ox) columns[ox] = taps_at(f.x, ox);
    const Taps* taps = columns.data();
#pragma omp parallel if (f.n * f.c * f.out_h * f.out_w > GRAIN)
    {
        std::vector<A> space(separable ? (size_t)f.x.in * BLOCK : 0);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < f.n * f.out_h; ++row) {
            const int64_t sample = row / f.out_h, oy = row % f.out_h;
            const Taps ty = taps_at(f.y, (int)oy);
            const T* in = f.in + sample * f.from.n;
            T* out = f.out + sample * f.to.n + oy * f.to.h;
            int64_t c = 0;
            for (; c + BLOCK <= f.c; c += BLOCK) {
                if (separable) filter_separably<T, A, BLOCK>(f, factors, in + c, out + c, ty, taps, space.data());
                else filter_blocks<T, A, BLOCK>(f, in + c, out + c, ty, taps);
            }
            for (; c < f.c; c += NARROW) {  // the last ones may be among those before: they come out the same
                const int64_t at = c + NARROW <= f.c ? c : f.c - NARROW;
                if (separable) filter_separably<T, A, NARROW>(f, factors, in + at, out + at, ty, taps, space.data());
                else filter_blocks<T, A, NARROW>(f, in + at, out + at, ty, taps);
            }
        }
    }
}

template <class T> void filter(const FilterArguments& a, const void* x, void* y) {
    const Filtering<T> f{a.n, a.c, a.out_h, a.out_w,
                         {a.h, a.taps_y, a.up_y, a.down_y, a.pad_y}, {a.w, a.taps_x, a.up_x, a.down_x, a.pad_x},
                         {a.from[0], a.from[1], a.from[2], a.from[3]}, {a.to[0], a.to[1], a.to[2], a.to[3]},
                         (const typename Math<T>::type*)a.filter, (const T*)x, (T*)y};
    const Factors<typename Math<T>::type> factors(f.filter, f.y.taps, f.x.taps);
    f.from.c == 1 && f.to.c == 1 && f.c >= NARROW ? filter_interleaved(f, factors) : filter_planes(f, factors);
}

bool upfirdn2d(const FilterArguments& a, const void* x, void* y) { SIS_BY_DTYPE(a.dtype, filter<T>(a, x, y)) }
