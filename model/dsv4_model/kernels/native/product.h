// One product y = x W^T, for a weight in any storage.
#pragma once
#include "abi.h"
#include "simd.h"

namespace ISA {

constexpr int FEW = 16;  // rows of x up to which dot products are used, four at a time

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

// A piece of it: columns of y from `column` on, as many as a job takes, in rows from .. to - 1.
struct ProductJob {
    int product, column, from, to;
};

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
            int i = 0;
            for (; i + 32 <= n; i += 32) {
                vf even, odd;
                from_e2m1(p + i / 2, powers.value[scales[i / 32]], even, odd);
                store(out + i, __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
                store(out + i + 16,
                      __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
            }
            for (; i < n; i++) {
                uint8_t code = i & 1 ? p[i / 2] >> 4 : p[i / 2] & 15;
                out[i] = FP4_VALUES[code] * from_exponent(scales[i / 32]);
            }
        }
    }
}

}  // namespace ISA
