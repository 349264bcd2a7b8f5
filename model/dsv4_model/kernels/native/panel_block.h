// Cache rows that many queries see, for products in fp32.
#pragma once
#include "run.h"

namespace ISA {

constexpr int WIDTH = 2 * PANEL;  // rows that are scored at a time

// Decoded rows and the same again as panels [tile][channels][PANEL] for scores.
struct Block {
    float *rows, *panels;
    int64_t count;
    void fill(Run& run, int size) {
        const int64_t tiles = (count + PANEL - 1) / PANEL;
        panels = run.floats(tiles * PANEL, size);
        run.each(static_cast<int>(tiles), 2, [&](int t, int) {
            float* panel = panels + static_cast<int64_t>(t) * PANEL * size;
            for (int r = 0; r < PANEL; r++) {
                int64_t row = static_cast<int64_t>(t) * PANEL + r;
                for (int c = 0; c < size; c++) panel[c * PANEL + r] = row < count ? rows[row * size + c] : 0.0f;
            }
        });
    }
};

// Some queries [count][size], next to each other.
class Queries {
  public:
    Queries(const float* q, int, int size, uint8_t*) : q_(q), size_(size) {}
    static int64_t scratch_bytes(int, int) { return 0; }
    // scores [count][WIDTH] of n rows from `start` on, both multiples of PANEL.
    void score(int count, const Block& block, int64_t start, int n, float* scores) const {
        for (int half = 0; half < n; half += PANEL)
            tiles(q_, size_, block.panels + (start + half) * size_, PANEL, scores + half, WIDTH, count, size_, false);
    }
    // sum [count][size] += weights [count][WIDTH] times these rows.
    void add(int count, const Block& block, int64_t start, int n, const float* weights, float* sum) const {
        const int rows = static_cast<int>(std::min<int64_t>(n, block.count - start));
        int c = 0;
        for (; c + PANEL <= size_; c += PANEL)
            tiles(weights, WIDTH, block.rows + start * size_ + c, size_, sum + c, size_, count, rows, true);
        for (; c < size_; c++)
            for (int line = 0; line < count; line++)
                for (int i = 0; i < rows; i++)
                    sum[line * size_ + c] += weights[line * WIDTH + i] * block.rows[(start + i) * size_ + c];
    }

  private:
    const float* q_;
    int size_;
};

}  // namespace ISA
