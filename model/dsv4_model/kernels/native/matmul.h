// y = x W^T for weights in any storage. Few rows of x: dot products over packed weights, which the speed of memory
// bounds. Many: a panel of weights is expanded once and multiplied in register tiles.
#pragma once
#include <vector>

#include "abi.h"
#include "pool.h"
#include "simd.h"

namespace ISA {

#if defined(__AVX512F__)
constexpr int TILE_ROWS = 12, PANEL_VECTORS = 2;
#elif defined(__AVX2__)
constexpr int TILE_ROWS = 6, PANEL_VECTORS = 1;
#else
constexpr int TILE_ROWS = 2, PANEL_VECTORS = 1;
#endif
constexpr int PANEL = 16 * PANEL_VECTORS;
constexpr int FEW = 16;      // rows of x up to which dot products are used, four at a time
constexpr int DOT_ROWS = 16;  // rows of a weight in one job of dot products
constexpr int DEPTH = 512;   // columns of a panel that are expanded at a time; a multiple of 128

INLINE const uint8_t* bytes(const Matrix& w) { return static_cast<const uint8_t*>(w.data); }

// Columns k .. k + n - 1 of a row as fp32; k is a multiple of 32.
INLINE void expand(const Matrix& w, int64_t row, int k, int n, float* out) {
    int whole = n & ~15;
    switch (w.kind) {
        case FP32: {
            std::memcpy(out, static_cast<const float*>(w.data) + row * w.columns + k, n * sizeof(float));
            break;
        }
        case BF16: {
            auto p = static_cast<const uint16_t*>(w.data) + row * w.columns + k;
            for (int i = 0; i < whole; i += 16) store(out + i, from_bf16(p + i));
            for (int i = whole; i < n; i++) out[i] = from_bf16(p[i]);
            break;
        }
        case FP8: {
            auto p = bytes(w) + row * w.columns + k;
            auto scales = w.scale + (row / 128) * w.scale_columns;
            for (int i = 0; i < whole; i += 16)
                store(out + i, from_e4m3(p + i) * (from_exponent(scales[(k + i) / 128]) * E4M3_FIX));
            for (int i = whole; i < n; i++) out[i] = e4m3(p[i]) * from_exponent(scales[(k + i) / 128]);
            break;
        }
        default: {
            auto p = bytes(w) + row * (w.columns / 2) + k / 2;
            auto scales = w.scale + row * w.scale_columns + k / 32;
            for (int i = 0; i < n; i++) {
                uint8_t code = i & 1 ? p[i / 2] >> 4 : p[i / 2] & 15;
                out[i] = FP4_VALUES[code] * from_exponent(scales[i / 32]);
            }
        }
    }
}

// 32 neighbours as those with even and those with odd numbers.
INLINE void split(const float* p, vf& even, vf& odd) {
    vf a = load(p), b = load(p + 16);
    even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

// R rows of W times M rows of x. The order of a product's sums is the same whatever R and M are: a token's result
// doesn't depend on which others are computed with it.
template <int KIND, int R, int M>
static void dot(const Matrix& w, int64_t row, const float* x, int64_t ldx, float* y, int64_t ldy) {
    vf acc[R][M] = {};
    const int columns = w.columns;
    int k = 0;
    if constexpr (KIND == FP4) {
        const int stride = columns / 2, whole = columns & ~31;
        for (; k < whole; k += 32) {
            vf xe[M], xo[M];
            for (int m = 0; m < M; m++) split(x + m * ldx + k, xe[m], xo[m]);
            for (int r = 0; r < R; r++) {
                vf even, odd;
                from_e2m1(bytes(w) + (row + r) * stride + k / 2, even, odd);
                vf scale = splat(from_exponent(w.scale[(row + r) * w.scale_columns + k / 32]));
                even = even * scale;
                odd = odd * scale;
                for (int m = 0; m < M; m++) {
                    acc[r][m] += even * xe[m];
                    acc[r][m] += odd * xo[m];
                }
            }
        }
    } else if constexpr (KIND == FP8) {
        const int whole = columns & ~15;
        const uint8_t* scales = w.scale + (row / 128) * w.scale_columns;
        for (; k < whole; k += 16) {
            float scale = from_exponent(scales[k / 128]) * E4M3_FIX;
            vf xs[M];
            for (int m = 0; m < M; m++) xs[m] = load(x + m * ldx + k) * scale;
            for (int r = 0; r < R; r++) {
                vf v = from_e4m3(bytes(w) + (row + r) * columns + k);
                for (int m = 0; m < M; m++) acc[r][m] += v * xs[m];
            }
        }
    } else if constexpr (KIND == BF16) {
        const int whole = columns & ~31;
        for (; k < whole; k += 32) {
            vf xe[M], xo[M];
            for (int m = 0; m < M; m++) split(x + m * ldx + k, xe[m], xo[m]);
            for (int r = 0; r < R; r++) {
                // Pairs as integers: the even one of each is in the low half.
                vi pairs = *reinterpret_cast<const vi*>(static_cast<const uint16_t*>(w.data) + (row + r) * columns + k);
                vf even = bits(pairs << 16), odd = bits(pairs & static_cast<int>(0xFFFF0000u));
                for (int m = 0; m < M; m++) {
                    acc[r][m] += even * xe[m];
                    acc[r][m] += odd * xo[m];
                }
            }
        }
    } else {
        const int whole = columns & ~15;
        for (; k < whole; k += 16)
            for (int r = 0; r < R; r++) {
                vf v = load(static_cast<const float*>(w.data) + (row + r) * columns + k);
                for (int m = 0; m < M; m++) acc[r][m] += v * load(x + m * ldx + k);
            }
    }
    for (; k < columns; k += 16) {
        int n = columns - k < 16 ? columns - k : 16;
        for (int r = 0; r < R; r++) {
            float part[32] = {};
            // Groups of FP4 start at multiples of 32, and the last may end in the middle.
            int start = k & ~31;
            float whole[64] = {};
            expand(w, row + r, start, columns - start < 48 ? columns - start : 48, whole);
            std::memcpy(part, whole + (k - start), n * sizeof(float));
            for (int m = 0; m < M; m++) acc[r][m] += load(part) * load_part(x + m * ldx + k, n);
        }
    }
    for (int m = 0; m < M; m++) {
        int r = 0;
        for (; r + 4 <= R; r += 4)
            *reinterpret_cast<v4f*>(y + m * ldy + r) = sums(acc[r][m], acc[r + 1][m], acc[r + 2][m], acc[r + 3][m]);
        for (; r < R; r++) y[m * ldy + r] = sum(acc[r][m]);
    }
}

template <int KIND, int M>
static void dots(const Matrix& w, int64_t row, int rows, const float* x, int64_t ldx, float* y, int64_t ldy) {
    constexpr int R = M == 1 ? 8 : 4;
    int r = 0;
    // A run of rows must not cross a block of FP8 scales; DOT_ROWS divides it, a sub-matrix may start anywhere.
    auto together = [&](int n) {
        return r + n <= rows && (KIND != FP8 || (row + r) / 128 == (row + r + n - 1) / 128);
    };
    while (r < rows) {
        if (together(R)) {
            dot<KIND, R, M>(w, row + r, x, ldx, y + r, ldy);
            r += R;
        } else {
            dot<KIND, 1, M>(w, row + r, x, ldx, y + r, ldy);
            r += 1;
        }
    }
}

template <int KIND>
static void dots_of_kind(const Matrix& w, int64_t row, int rows, const float* x, int64_t ldx, int m, float* y,
                         int64_t ldy) {
    // The rows of a job stay in the cache from one four to the next.
    for (; m > 4; m -= 4, x += 4 * ldx, y += 4 * ldy) dots<KIND, 4>(w, row, rows, x, ldx, y, ldy);
    switch (m) {
        case 1: return dots<KIND, 1>(w, row, rows, x, ldx, y, ldy);
        case 2: return dots<KIND, 2>(w, row, rows, x, ldx, y, ldy);
        case 3: return dots<KIND, 3>(w, row, rows, x, ldx, y, ldy);
        default: return dots<KIND, 4>(w, row, rows, x, ldx, y, ldy);
    }
}

// c [R, PANEL] = a [R, depth] b [depth, PANEL], added to what is there if `more`.
template <int R>
static void tile(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int depth,
                 bool more) {
    vf acc[R][PANEL_VECTORS] = {};
    for (int k = 0; k < depth; k++) {
        vf row[PANEL_VECTORS];
        for (int v = 0; v < PANEL_VECTORS; v++) row[v] = load(b + k * ldb + 16 * v);
        for (int r = 0; r < R; r++) {
            vf x = splat(a[r * lda + k]);
            for (int v = 0; v < PANEL_VECTORS; v++) acc[r][v] += x * row[v];
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < PANEL_VECTORS; v++) {
            float* p = c + r * ldc + 16 * v;
            store(p, more ? load(p) + acc[r][v] : acc[r][v]);
        }
}

// The same for any number of rows.
static void tiles(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int rows,
                  int depth, bool more) {
    int r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
        tile<TILE_ROWS>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, depth, more);
    for (; r + 4 <= rows && TILE_ROWS > 4; r += 4) tile<4>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, depth, more);
    for (; r < rows; r++) tile<1>(a + r * lda, lda, b, ldb, c + r * ldc, ldc, depth, more);
}

// One product of a region: rows row .. row + rows - 1 of w, for m rows of x.
struct Product {
    const Matrix* w;
    int64_t row;
    int rows;
    const float* x;
    int64_t ldx;
    int m;
    float* y;
    int64_t ldy;
};

struct Scratch {
    float panel[DEPTH * PANEL];
    float line[DEPTH];
    float out[256 * PANEL];
};

static void few(const Product& p, int first, int rows) {
    const Matrix& w = *p.w;
    float* y = p.y + first;
    switch (w.kind) {
        case FP32: return dots_of_kind<FP32>(w, p.row + first, rows, p.x, p.ldx, p.m, y, p.ldy);
        case BF16: return dots_of_kind<BF16>(w, p.row + first, rows, p.x, p.ldx, p.m, y, p.ldy);
        case FP8: return dots_of_kind<FP8>(w, p.row + first, rows, p.x, p.ldx, p.m, y, p.ldy);
        default: return dots_of_kind<FP4>(w, p.row + first, rows, p.x, p.ldx, p.m, y, p.ldy);
    }
}

// 16 x 16 floats: in[i * 16 + j] to out[j * ldo + i].
INLINE void transpose(const float* in, int64_t ldi, float* out, int64_t ldo) {
    for (int j = 0; j < 16; j++)
        for (int i = 0; i < 16; i++) out[j * ldo + i] = in[i * ldi + j];
}

static void many(const Product& p, int first, Scratch& scratch) {
    const Matrix& w = *p.w;
    const int width = p.rows - first < PANEL ? p.rows - first : PANEL;
    for (int k = 0; k < w.columns; k += DEPTH) {
        int depth = w.columns - k < DEPTH ? w.columns - k : DEPTH;
        if (width < PANEL) std::memset(scratch.panel, 0, sizeof(float) * depth * PANEL);
        for (int r = 0; r < width; r++) {
            const float* line = scratch.line;
            if (w.kind == FP32)
                line = static_cast<const float*>(w.data) + (p.row + first + r) * w.columns + k;
            else
                expand(w, p.row + first + r, k, depth, scratch.line);
            for (int i = 0; i < depth; i++) scratch.panel[i * PANEL + r] = line[i];
        }
        for (int m = 0; m < p.m; m += 256) {
            int rows = p.m - m < 256 ? p.m - m : 256;
            const float* x = p.x + m * p.ldx + k;
            float* y = p.y + m * p.ldy + first;
            if (width == PANEL) {
                tiles(x, p.ldx, scratch.panel, PANEL, y, p.ldy, rows, depth, k > 0);
            } else {
                tiles(x, p.ldx, scratch.panel, PANEL, scratch.out, PANEL, rows, depth, false);
                for (int r = 0; r < rows; r++)
                    for (int i = 0; i < width; i++)
                        y[r * p.ldy + i] = scratch.out[r * PANEL + i] + (k > 0 ? y[r * p.ldy + i] : 0.0f);
            }
        }
    }
}

// All products in one region of the pool; none may read what another writes.
static void multiply(Pool& pool, Scratch* scratch, const Product* products, int count) {
    struct Job {
        int product, first;
    };
    static thread_local std::vector<Job> jobs;
    jobs.clear();
    for (int i = 0; i < count; i++) {
        int step = products[i].m <= FEW ? DOT_ROWS : PANEL;
        if (products[i].m > 0)
            for (int first = 0; first < products[i].rows; first += step) jobs.push_back({i, first});
    }
    const Job* list = jobs.data();
    // Several jobs at a time, so that taking one costs little beside doing it.
    int total = static_cast<int>(jobs.size());
    int group = total > 6 * pool.threads() ? total / (6 * pool.threads()) : 1;
    pool.run((total + group - 1) / group, [&](int number, int thread) {
        int end = (number + 1) * group < total ? (number + 1) * group : total;
        for (int j = number * group; j < end; j++) {
            const Product& p = products[list[j].product];
            int rows = p.rows - list[j].first < DOT_ROWS ? p.rows - list[j].first : DOT_ROWS;
            if (p.m <= FEW)
                few(p, list[j].first, rows);
            else
                many(p, list[j].first, scratch[thread]);
        }
    });
}

}  // namespace ISA
