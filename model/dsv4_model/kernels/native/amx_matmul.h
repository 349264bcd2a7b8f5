// Products for many rows of x in tiles (see amx.h): x is split into its parts once for all weights that it meets, a
// panel of 32 rows of a weight is packed by whoever multiplies it. Scratch memory: 6 bytes a value of x, and for each
// thread 64 bytes a column of a weight, 192 where it is stored in fp32.
#pragma once
#include <vector>

#include "amx.h"
#include "pool.h"
#include "product.h"

#if AMX

namespace ISA {

constexpr int PANEL = 2 * SIDE;

// Rows row .. row + rows - 1 of a weight as two blocks of columns.
static Right pack_panel(const Matrix& w, int64_t row, int rows, int depth, uint16_t* out) {
    const int wanted = w.kind == FP32 ? PARTS : 1;
    Right right{out, static_cast<int64_t>(depth) * wanted * TILE, wanted, 1};
    for (int block = 0; block < 2 && block * SIDE < rows; block++) {
        const int n = rows - block * SIDE < SIDE ? rows - block * SIDE : SIDE;
        const int64_t first = row + block * SIDE;
        for (int k = 0; k < depth; k++) {
            const int columns = w.columns - k * STEP < STEP ? w.columns - k * STEP : STEP;
            alignas(64) float lines[SIDE * STEP];
            const float* from = lines;
            int64_t ld = STEP;
            if (w.kind == FP32) {
                from = static_cast<const float*>(w.data) + first * w.columns + k * STEP;
                ld = w.columns;
            } else {
                for (int r = 0; r < n; r++) expand(w, first + r, k * STEP, columns, lines + r * STEP);
            }
            const int used = pack_rows(from, ld, n, columns, wanted, out + block * right.next + k * wanted * TILE);
            right.used = used > right.used ? used : right.used;
        }
    }
    right.used = right.used < wanted ? right.used : wanted;
    return right;
}

class ManyRows {
  public:
    ManyRows(Pool& pool, Arena& arena, const Product* products, int count) : products_(products), left_(count) {
        int deepest = 0;
        for (int i = 0; i < count; i++) {
            if (products[i].m <= FEW) continue;
            announce(arena, i);
            deepest = left_[i].depth > deepest ? left_[i].depth : deepest;
        }
        panel_ = static_cast<int64_t>(deepest) * 2 * PACKED;
        panels_ = arena.take<uint16_t>(pool.threads() * panel_);
        const int total = static_cast<int>(splits_.size()), together = 4;
        pool.run((total + together - 1) / together, [&](int number, int) {
            for (int j = number * together; j < total && j < (number + 1) * together; j++) split(splits_[j]);
        });
    }

    void multiply(const ProductJob& job, int thread) {
        const Product& p = products_[job.product];
        const Left& left = left_[job.product];
        uint16_t* panel = panels_ + thread * panel_;
        const int width = p.rows - job.column < PANEL ? p.rows - job.column : PANEL;
        const Right right = pack_panel(*p.w, p.row + job.column, width, left.depth, panel);
        for (int m = job.from; m < job.to; m += 2 * SIDE)
            tile_product(job.to - m < 2 * SIDE ? job.to - m : 2 * SIDE, width, left, m / SIDE, right, left.depth,
                         p.y + static_cast<int64_t>(m) * p.ldy + job.column, p.ldy, false);
    }

  private:
    struct Split {
        int product, row;
    };
    // Room for the parts of a product's x, unless one of the last few has the same.
    void announce(Arena& arena, int i) {
        const Product& p = products_[i];
        for (int j = i - 1; j >= 0 && j >= i - 8; j--) {
            const Product& other = products_[j];
            if (other.x != p.x || other.m != p.m || other.ldx != p.ldx || other.w->columns != p.w->columns) continue;
            left_[i] = left_[j];
            return;
        }
        const int columns = p.w->columns;
        left_[i] = {arena.take<uint16_t>(Left::values(p.m, columns)), arena.take<uint8_t>(Left::flags(p.m, columns)),
                    static_cast<int>(blocks(columns, STEP))};
        for (int m = 0; m < p.m; m += SIDE) splits_.push_back({i, m});
    }
    void split(const Split& job) {
        const Product& p = products_[job.product];
        const int rows = p.m - job.row < SIDE ? p.m - job.row : SIDE;
        split_rows(p.x + job.row * p.ldx, p.ldx, rows, p.w->columns, left_[job.product], job.row / SIDE);
    }
    const Product* products_;
    std::vector<Left> left_;
    std::vector<Split> splits_;
    uint16_t* panels_;
    int64_t panel_;  // values of one thread's panel
};

}  // namespace ISA
#endif
