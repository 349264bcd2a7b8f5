// Products for many rows of x in fp32: a panel of weights is expanded once and multiplied in blocks that stay in registers.
#pragma once
#include "pool.h"
#include "product.h"

namespace ISA {

#if defined(__AVX512F__)
constexpr int TILE_ROWS = 12, PANEL_VECTORS = 2;
#elif defined(__AVX2__)
constexpr int TILE_ROWS = 6, PANEL_VECTORS = 1;
#else
constexpr int TILE_ROWS = 2, PANEL_VECTORS = 1;
#endif
constexpr int PANEL = 16 * PANEL_VECTORS;
constexpr int DEPTH = 512;  // columns of a panel that are expanded at a time; a multiple of 128

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

class ManyRows {
  public:
    ManyRows(Pool& pool, Arena& arena, const Product* products, int)
        : products_(products), scratch_(arena.take<Scratch>(pool.threads())) {}

    void multiply(const ProductJob& job, int thread) {
        const Product& p = products_[job.product];
        const Matrix& w = *p.w;
        Scratch& scratch = scratch_[thread];
        const int width = p.rows - job.column < PANEL ? p.rows - job.column : PANEL;
        for (int k = 0; k < w.columns; k += DEPTH) {
            const int depth = w.columns - k < DEPTH ? w.columns - k : DEPTH;
            fill(w, p.row + job.column, width, k, depth, scratch);
            for (int m = job.from; m < job.to; m += STRIP) {
                const int rows = job.to - m < STRIP ? job.to - m : STRIP;
                const float* x = p.x + m * p.ldx + k;
                float* y = p.y + m * p.ldy + job.column;
                if (width == PANEL) {
                    tiles(x, p.ldx, scratch.panel, PANEL, y, p.ldy, rows, depth, k > 0);
                    continue;
                }
                tiles(x, p.ldx, scratch.panel, PANEL, scratch.out, PANEL, rows, depth, false);
                for (int r = 0; r < rows; r++)
                    for (int i = 0; i < width; i++)
                        y[r * p.ldy + i] = scratch.out[r * PANEL + i] + (k > 0 ? y[r * p.ldy + i] : 0.0f);
            }
        }
    }

  private:
    static constexpr int STRIP = 256;
    struct Scratch {
        float panel[DEPTH * PANEL];
        float line[DEPTH];
        float out[STRIP * PANEL];
    };
    // Columns k .. k + depth - 1 of `width` rows of w as [depth][PANEL].
    static void fill(const Matrix& w, int64_t row, int width, int k, int depth, Scratch& scratch) {
        if (width < PANEL) std::memset(scratch.panel, 0, sizeof(float) * depth * PANEL);
        for (int r = 0; r < width; r++) {
            const float* line = scratch.line;
            if (w.kind == FP32)
                line = static_cast<const float*>(w.data) + (row + r) * w.columns + k;
            else
                expand(w, row + r, k, depth, scratch.line);
            for (int i = 0; i < depth; i++) scratch.panel[i * PANEL + r] = line[i];
        }
    }
    const Product* products_;
    Scratch* scratch_;
};

}  // namespace ISA
