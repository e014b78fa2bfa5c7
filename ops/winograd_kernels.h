// 3x3 convolutions with fewer multiplications, for one instruction set; see code_paths.h.
//
// Tensors are float32, channels last: [n, height, width, channels], channels in multiples of 16. A convolution is cut
// into tiles of 4x4 cells. Along each axis a tile is transformed to a few points, at every point the channels are mixed
// by a matrix product, and the result is transformed back (Winograd 1980; Lavin and Gray 2016):
//
//   stride 1, kernel of 3:  6 points for 4 outputs instead of 12 products: F(4, 3), points 0, 1, -1, 2, -2, infinity
//   transposed, stride 2:   even outputs have a kernel of 2, 5 points for 4 outputs: F(4, 2), points 0, 1, -1, 2,
//                           infinity; odd outputs have a kernel of 1 and take the cells as they are: 9 instead of 12
//
// In two dimensions that is 36 products instead of 144, and 81 instead of 144.

constexpr int LANES = SIS_VECTOR_BYTES / 4;
constexpr int PER_PANEL = 16 / LANES;  // vectors in a panel of 16 columns
// rows and panels of a product that are added up in registers: AVX-512 has 32 of them, the others 16
constexpr int TILE_ROWS = SIS_VECTOR_BYTES == 64 ? 14 : 6, TILE_PANELS = SIS_VECTOR_BYTES == 64 ? 2 : 1;

typedef float Vec __attribute__((vector_size(SIS_VECTOR_BYTES), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

// ---------------------------------------------------------------- matrix product

// c[ROWS][COLS vectors] = a[ROWS][depth] * b; b: panels of [depth][16]
template <int ROWS, int COLS>
inline void product_tile(const float* a, int64_t depth, const float* b, float* c, int64_t step) {
    Vec sum[ROWS][COLS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < COLS; ++j) sum[i][j] = Vec{};
    for (int64_t k = 0; k < depth; ++k) {
        Vec line[COLS];
        for (int j = 0; j < COLS; ++j) line[j] = load(b + (j / PER_PANEL) * depth * 16 + k * 16 + j % PER_PANEL * LANES);
        for (int i = 0; i < ROWS; ++i) {
            const float factor = a[i * depth + k];
            for (int j = 0; j < COLS; ++j) sum[i][j] += factor * line[j];
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < COLS; ++j) store(c + i * step + j * LANES, sum[i][j]);
}

template <int COLS, int ROWS>
inline void product_rest(int rows, const float* a, int64_t depth, const float* b, float* c, int64_t step) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) return product_tile<ROWS, COLS>(a, depth, b, c, step);
        product_rest<COLS, ROWS - 1>(rows, a, depth, b, c, step);
    }
}

template <int COLS> void product_strip(int64_t rows, const float* a, int64_t depth, const float* b, float* c, int64_t step) {
    int64_t i = 0;
    for (; i + TILE_ROWS <= rows; i += TILE_ROWS)
        product_tile<TILE_ROWS, COLS>(a + i * depth, depth, b, c + i * step, step);
    product_rest<COLS, TILE_ROWS - 1>(int(rows - i), a + i * depth, depth, b, c + i * step, step);
}

// c[rows][columns] = a[rows][depth] * b
void product(int64_t rows, int64_t depth, int64_t columns, const float* a, const float* b, float* c) {
    int64_t panel = 0;
    const int64_t panels = columns / 16;
    for (; panel + TILE_PANELS <= panels; panel += TILE_PANELS)
        product_strip<TILE_PANELS * PER_PANEL>(rows, a, depth, b + panel * depth * 16, c + panel * 16, columns);
    for (; panel < panels; ++panel)
        product_strip<PER_PANEL>(rows, a, depth, b + panel * depth * 16, c + panel * 16, columns);
}

// ---------------------------------------------------------------- transforms along one axis

inline void to_points_6(const Vec* d, int step, Vec* v, int to) {
    const Vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    const Vec even = d4 - 4.f * d2, odd = d3 - 4.f * d1, wide = d4 - d2, slope = 2.f * (d3 - d1);
    v[0] = 4.f * d0 - 5.f * d2 + d4;
    v[to] = even + odd;
    v[2 * to] = even - odd;
    v[3 * to] = wide + slope;
    v[4 * to] = wide - slope;
    v[5 * to] = 4.f * d1 - 5.f * d3 + d5;
}

inline void from_points_6(const Vec* m, int step, Vec* y, int to) {
    const Vec a = m[step] + m[2 * step], b = m[step] - m[2 * step];
    const Vec c = m[3 * step] + m[4 * step], d = m[3 * step] - m[4 * step];
    y[0] = m[0] + a + c;
    y[to] = b + 2.f * d;
    y[2 * to] = a + 4.f * c;
    y[3 * to] = b + 8.f * d + m[5 * step];
}

// 5 cells, the first one left of the tile, to 5 points and the tile's own 4 cells
inline void to_points_9(const Vec* d, int step, Vec* v, int to) {
    const Vec d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
    v[0] = 2.f * (d0 - d2) - d1 + d3;
    v[to] = d3 - d2 - 2.f * d1;
    v[2 * to] = d3 - 3.f * d2 + 2.f * d1;
    v[3 * to] = d3 - d1;
    v[4 * to] = 2.f * (d1 - d3) - d2 + d4;
    v[5 * to] = d1;
    v[6 * to] = d2;
    v[7 * to] = d3;
    v[8 * to] = d4;
}

// to 8 outputs, even and odd ones in turn
inline void from_points_9(const Vec* m, int step, Vec* t, int to) {
    const Vec a = m[step] + m[2 * step], b = m[step] - m[2 * step], c = m[3 * step];
    t[0] = m[0] + a + c;
    t[2 * to] = b + 2.f * c;
    t[4 * to] = a + 4.f * c;
    t[6 * to] = b + 8.f * c + m[4 * step];
    for (int i = 0; i < 4; ++i) t[(2 * i + 1) * to] = m[(5 + i) * step];
}

// ---------------------------------------------------------------- layers

struct Tile {
    int64_t n, y, x;
};

inline Tile tile_at(int64_t index, int64_t high, int64_t wide) {
    return {index / (high * wide), index / wide % high, index % wide};
}

// SIZE x SIZE cells from (y, x) on, zeros outside of the picture
template <int SIZE> inline void read_cells(const LayerArguments& a, int64_t n, int64_t y, int64_t x, int64_t c, Vec* d) {
    const float* from = a.x + ((n * a.height + y) * a.width + x) * a.in + c;
    const bool inside = y >= 0 && x >= 0 && y + SIZE <= a.height && x + SIZE <= a.width;
    for (int i = 0; i < SIZE; ++i)
        for (int k = 0; k < SIZE; ++k) {
            const bool known = inside || (y + i >= 0 && x + k >= 0 && y + i < a.height && x + k < a.width);
            d[i * SIZE + k] = known ? load(from + (i * a.width + k) * a.in) : Vec{};
        }
}

// demodulation, noise, bias, leaky ReLU and clamp of one vector of channels
inline Vec finish(const LayerArguments& a, Vec v, Vec scale, Vec bias, int64_t pixel) {
    v = v * scale + bias;
    if (a.noise) v += a.noise[pixel];
    const Vec low = v * a.slope, limit = Vec{} + a.clamp;
    v = v > 0.f ? v : low;
    v = v > limit ? limit : v;
    return v < -limit ? -limit : v;
}

void conv_tiles(const LayerArguments& a, int64_t first, int64_t count, float* room) {
    const int64_t high = (a.height + 3) / 4, wide = (a.width + 3) / 4;
    float *points = room, *mixed = room + 36 * count * a.in;
    for (int64_t t = 0; t < count; ++t) {
        const Tile tile = tile_at(first + t, high, wide);
        for (int64_t c = 0; c < a.in; c += LANES) {
            Vec d[36], v[36];
            read_cells<6>(a, tile.n, tile.y * 4 - 1, tile.x * 4 - 1, c, d);
            for (int k = 0; k < 6; ++k) to_points_6(d + k, 6, v + k, 6);
            for (int i = 0; i < 6; ++i) to_points_6(v + 6 * i, 1, d + 6 * i, 1);
            const Vec style = load(a.styles + tile.n * a.in + c);
            for (int i = 0; i < 36; ++i) store(points + (i * count + t) * a.in + c, d[i] * style);
        }
    }
    for (int i = 0; i < 36; ++i)
        product(count, a.in, a.out, points + i * count * a.in, a.weights + i * a.in * a.out, mixed + i * count * a.out);
    for (int64_t t = 0; t < count; ++t) {
        const Tile tile = tile_at(first + t, high, wide);
        for (int64_t o = 0; o < a.out; o += LANES) {
            Vec m[36], half[24], y[16];
            for (int i = 0; i < 36; ++i) m[i] = load(mixed + (i * count + t) * a.out + o);
            for (int k = 0; k < 6; ++k) from_points_6(m + k, 6, half + k, 6);
            for (int i = 0; i < 4; ++i) from_points_6(half + 6 * i, 1, y + 4 * i, 1);
            const Vec scale = load(a.demodulation + tile.n * a.out + o), bias = load(a.bias + o);
            for (int i = 0; i < 4; ++i)
                for (int k = 0; k < 4; ++k) {
                    const int64_t row = tile.y * 4 + i, column = tile.x * 4 + k, pixel = row * a.width + column;
                    if (row < a.height && column < a.width)
                        store(a.y + (tile.n * a.height * a.width + pixel) * a.out + o,
                              finish(a, y[i * 4 + k], scale, bias, pixel));
                }
        }
    }
}

// Where point (p, q) of tile 0 lies among the rows for the products: points that share weights lie in a row.
inline int64_t up_row(int p, int q, int64_t count) {
    if (p < 5) return (q < 5 ? p * 5 + q : 25 + p * 4 + q - 5) * count;
    return (q < 5 ? 45 + q * 4 + p - 5 : 65 + (p - 5) * 4 + q - 5) * count;
}

// The transposed convolution without its last row and column, into a.wide [n, 2 * height + 1, 2 * width + 1, out].
void up_tiles(const LayerArguments& a, int64_t first, int64_t count, float* room) {
    const int64_t high = (a.height + 3) / 4, wide = (a.width + 3) / 4, rows = 2 * a.height + 1, columns = 2 * a.width + 1;
    float *points = room, *mixed = room + 81 * count * a.in;
    for (int64_t t = 0; t < count; ++t) {
        const Tile tile = tile_at(first + t, high, wide);
        for (int64_t c = 0; c < a.in; c += LANES) {
            Vec d[25], v[45];
            read_cells<5>(a, tile.n, tile.y * 4 - 1, tile.x * 4 - 1, c, d);
            const Vec style = load(a.styles + tile.n * a.in + c);
            for (int i = 0; i < 25; ++i) d[i] *= style;
            for (int k = 0; k < 5; ++k) to_points_9(d + k, 5, v + k, 5);
            for (int p = 0; p < 9; ++p) {
                Vec line[9];
                to_points_9(v + 5 * p, 1, line, 1);
                for (int q = 0; q < 9; ++q) store(points + (up_row(p, q, count) + t) * a.in + c, line[q]);
            }
        }
    }
    int64_t row = 0;
    for (int i = 0; i < 36; ++i) {
        const int64_t height = (i < 25 ? 1 : i < 35 ? 4 : 16) * count;
        product(height, a.in, a.out, points + row * a.in, a.weights + i * a.in * a.out, mixed + row * a.out);
        row += height;
    }
    for (int64_t t = 0; t < count; ++t) {
        const Tile tile = tile_at(first + t, high, wide);
        for (int64_t o = 0; o < a.out; o += LANES) {
            Vec m[81], half[72];
            for (int p = 0; p < 9; ++p)
                for (int q = 0; q < 9; ++q) m[p * 9 + q] = load(mixed + (up_row(p, q, count) + t) * a.out + o);
            for (int q = 0; q < 9; ++q) from_points_9(m + q, 9, half + q, 9);
            for (int i = 0; i < 8; ++i) {
                Vec line[8];
                from_points_9(half + 9 * i, 1, line, 1);
                const int64_t y = tile.y * 8 + i;
                for (int k = 0; k < 8; ++k)
                    if (y < rows - 1 && tile.x * 8 + k < columns - 1)
                        store(a.wide + ((tile.n * rows + y) * columns + tile.x * 8 + k) * a.out + o, line[k]);
            }
        }
    }
}

// The last row (or column) of the transposed convolution of sample n: it sees the last row of cells alone.
void up_edge(const LayerArguments& a, int64_t n, bool column, float* room) {
    const int64_t rows = 2 * a.height + 1, columns = 2 * a.width + 1, length = column ? a.height : a.width;
    float *cells = room, *mixed = room + length * a.in;
    for (int64_t i = 0; i < length; ++i) {
        const int64_t y = column ? i : a.height - 1, x = column ? a.width - 1 : i;
        const float* from = a.x + ((n * a.height + y) * a.width + x) * a.in;
        for (int64_t c = 0; c < a.in; c += LANES) store(cells + i * a.in + c, load(from + c) * load(a.styles + n * a.in + c));
    }
    const int order[2][3] = {{36, 37, 38}, {39, 40, 38}};  // the kernel's last row, its last column
    for (int k = 0; k < 3; ++k)
        product(length, a.in, a.out, cells, a.weights + order[column][k] * a.in * a.out, mixed + k * length * a.out);
    for (int64_t i = 0; i < 2 * length + !column; ++i) {  // the corner belongs to the row
        const int64_t y = column ? i : rows - 1, x = column ? columns - 1 : i, cell = i / 2;
        float* to = a.wide + ((n * rows + y) * columns + x) * a.out;
        for (int64_t o = 0; o < a.out; o += LANES) {
            Vec sum = Vec{};
            if (i % 2) sum = load(mixed + (length + cell) * a.out + o);
            else {
                if (cell < length) sum += load(mixed + cell * a.out + o);
                if (cell > 0) sum += load(mixed + (2 * length + cell - 1) * a.out + o);
            }
            store(to + o, sum);
        }
    }
}

// One row of the picture: filter (1 3 3 1) / 4 along both axes, then `finish`.
void up_filter_row(const LayerArguments& a, int64_t n, int64_t y) {
    const int64_t rows = 2 * a.height + 1, columns = 2 * a.width + 1;
    const float* lines[4];
    float weights[4] = {.25f, .75f, .75f, .25f};
    for (int i = 0; i < 4; ++i) {
        const int64_t row = y - 1 + i;
        if (row < 0 || row >= rows) weights[i] = 0.f;
        lines[i] = a.wide + (n * rows + (row < 0 ? 0 : row >= rows ? rows - 1 : row)) * columns * a.out;
    }
    for (int64_t o = 0; o < a.out; o += LANES) {
        const Vec scale = load(a.demodulation + n * a.out + o), bias = load(a.bias + o);
        Vec v0 = Vec{}, v1, v2, v3;
        const auto down = [&](int64_t x) {
            const int64_t at = x * a.out + o;
            return weights[0] * load(lines[0] + at) + weights[1] * load(lines[1] + at) + weights[2] * load(lines[2] + at) +
                   weights[3] * load(lines[3] + at);
        };
        v1 = down(0);
        v2 = down(1);
        for (int64_t x = 0; x < 2 * a.width; ++x) {
            v3 = x + 2 < columns ? down(x + 2) : Vec{};
            const int64_t pixel = y * 2 * a.width + x;
            const Vec sum = .25f * (v0 + v3) + .75f * (v1 + v2);
            store(a.y + ((n * 2 * a.height) * 2 * a.width + pixel) * a.out + o, finish(a, sum, scale, bias, pixel));
            v0 = v1;
            v1 = v2;
            v2 = v3;
        }
    }
}

// ---------------------------------------------------------------- RGB

// One row of the picture [n, 3, height, width]: 1x1 convolution, bias, and the picture of half the size, upsampled.
void rgb_row(const RgbArguments& a, int64_t n, int64_t y) {
    const float* weights = a.weights + n * 3 * a.in;  // [3, in]
    for (int64_t x = 0; x < a.width; ++x) {
        const float* cell = a.x + ((n * a.height + y) * a.width + x) * a.in;
        Vec sum[3] = {Vec{}, Vec{}, Vec{}};
        for (int64_t c = 0; c < a.in; c += LANES)
            for (int k = 0; k < 3; ++k) sum[k] += load(cell + c) * load(weights + k * a.in + c);
        for (int k = 0; k < 3; ++k) {
            float total = a.bias[k];
            for (int i = 0; i < LANES; ++i) total += sum[k][i];
            total = total > a.clamp ? a.clamp : total < -a.clamp ? -a.clamp : total;
            a.y[((n * 3 + k) * a.height + y) * a.width + x] = total;
        }
    }
    if (!a.skip) return;
    // each pixel lies a quarter of a cell from the centre of its own cell: 3/4 of that one, 1/4 of the next one over
    const int64_t h = a.height / 2, w = a.width / 2, own = y / 2, other = y % 2 ? own + 1 : own - 1;
    const float far = other < 0 || other >= h ? 0.f : .25f;
    for (int k = 0; k < 3; ++k) {
        const float* near_line = a.skip + ((n * 3 + k) * h + own) * w;
        const float* far_line = far ? a.skip + ((n * 3 + k) * h + other) * w : near_line;
        float* to = a.y + ((n * 3 + k) * a.height + y) * a.width;
        float before = 0.f, here = .75f * near_line[0] + far * far_line[0];
        for (int64_t x = 0; x < w; ++x) {
            const float after = x + 1 < w ? .75f * near_line[x + 1] + far * far_line[x + 1] : 0.f;
            to[2 * x] += .75f * here + .25f * before;
            to[2 * x + 1] += .75f * here + .25f * after;
            before = here;
            here = after;
        }
    }
}
