// Products for few rows of x: dot products over packed weights, which the speed of memory bounds.
#pragma once
#include "product.h"

namespace ISA {

constexpr int DOT_ROWS = 16;  // rows of a weight in one job

// 32 neighbours as those with even and those with odd numbers.
INLINE void split(const float* p, vf& even, vf& odd) {
    vf a = load(p), b = load(p + 16);
    even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

// The columns of FP8 weights that can be decoded 64 or 32 at a time; returns where the rest begins. The sums are taken in
// the same order either way. One row of x leaves registers for 64.
template <int R, int M>
INLINE int paired_dot(const Matrix& w, int64_t row, const float* x, int64_t ldx, vf acc[R][M]) {
    int k = 0;
#if PAIRED_E4M3
    const int columns = w.columns;
    const uint8_t* scales = w.scale + (row / 128) * w.scale_columns;
    auto scaled = [&](int m, int k, vf& even, vf& odd) {
        const float scale = from_exponent(scales[k / 128]) * E4M3_FIX;
        split(x + m * ldx + k, even, odd);
        even = even * scale;
        odd = odd * scale;
    };
    for (; M == 1 && k + 64 <= columns; k += 64) {
        vf xe[2], xo[2];
        for (int i = 0; i < 2; i++) scaled(0, k + 32 * i, xe[i], xo[i]);
        for (int r = 0; r < R; r++) {
            vf even[2], odd[2];
            from_e4m3(bytes(w) + (row + r) * columns + k, even, odd);
            for (int i = 0; i < 2; i++) {
                acc[r][0] += even[i] * xe[i];
                acc[r][0] += odd[i] * xo[i];
            }
        }
    }
    for (; k + 32 <= columns; k += 32) {
        vf xe[M], xo[M];
        for (int m = 0; m < M; m++) scaled(m, k, xe[m], xo[m]);
        for (int r = 0; r < R; r++) {
            vf even, odd;
            from_e4m3(bytes(w) + (row + r) * columns + k, even, odd);
            for (int m = 0; m < M; m++) {
                acc[r][m] += even * xe[m];
                acc[r][m] += odd * xo[m];
            }
        }
    }
#endif
    return k;
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
                const uint8_t exponent = w.scale[(row + r) * w.scale_columns + k / 32];
                from_e2m1(bytes(w) + (row + r) * stride + k / 2, powers.value[exponent], even, odd);
                for (int m = 0; m < M; m++) {
                    acc[r][m] += even * xe[m];
                    acc[r][m] += odd * xo[m];
                }
            }
        }
    } else if constexpr (KIND == FP8) {
        const int whole = columns & ~15;
        const uint8_t* scales = w.scale + (row / 128) * w.scale_columns;
        k = paired_dot<R, M>(w, row, x, ldx, acc);
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

}  // namespace ISA
