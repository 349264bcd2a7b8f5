// Cache rows that many queries see, packed once as tiles: as columns for scores, as rows for weighted sums.
#pragma once
#include "run.h"

namespace ISA {

constexpr int WIDTH = 128;  // rows that are scored at a time

struct Block {
    float* rows;  // decoded, [count][size]
    int64_t count;
    Right keys, values;

    void fill(Run& run, int size) {
        // What comes out of a cache that isn't fp32 has at most 8 bits.
        const int parts = run.model.row_storage == FP32 ? PARTS : 1;
        const int64_t across = blocks(size, STEP), channels = blocks(size, SIDE), steps = blocks(count, STEP);
        const int64_t tile = static_cast<int64_t>(parts) * TILE;
        keys = {run.arena().take<uint16_t>(steps * 2 * across * tile), across * tile, parts, parts};
        values = {run.arena().take<uint16_t>(channels * steps * tile), steps * tile, parts, parts};
        run.each(static_cast<int>(steps), 1, [&](int step, int) {
            const int64_t first = static_cast<int64_t>(step) * STEP;
            const float* x = rows + first * size;
            const int n = static_cast<int>(std::min<int64_t>(STEP, count - first));
            for (int half = 0; half < 2; half++)
                for (int k = 0; k < across; k++)
                    pack_rows(x + half * SIDE * size + k * STEP, size, n - half * SIDE, std::min(STEP, size - k * STEP),
                              parts, keys.data + (step * 2 + half) * keys.next + k * tile);
            for (int c = 0; c < channels; c++)
                pack_columns(x + c * SIDE, size, n, std::min(SIDE, size - c * SIDE), parts,
                             values.data + c * values.next + step * tile);
        });
    }
};

// Some queries [count][size], next to each other, split into parts.
class Queries {
  public:
    Queries(const float* q, int count, int size, uint8_t* scratch)
        : size_(size), q_(left(scratch, count, size)), weights_(left(scratch, count, WIDTH)) {
        for (int i = 0; i < count; i += SIDE)
            split_rows(q + static_cast<int64_t>(i) * size, size, std::min(SIDE, count - i), size, q_, i / SIDE);
    }
    static int64_t scratch_bytes(int count, int size) { return bytes_of(count, size) + bytes_of(count, WIDTH); }
    // scores [count][WIDTH] of n rows from `start` on, both multiples of 32.
    void score(int count, const Block& block, int64_t start, int n, float* scores) const {
        for (int i = 0; i < count; i += 2 * SIDE)
            for (int r = 0; r < n; r += 2 * SIDE) {
                Right keys = block.keys;
                keys.data += (start + r) / SIDE * keys.next;
                tile_product(std::min(2 * SIDE, count - i), 2 * SIDE, q_, i / SIDE, keys, q_.depth,
                             scores + i * WIDTH + r, WIDTH, false);
            }
    }
    // sum [count][size] += weights [count][WIDTH] times these rows.
    void add(int count, const Block& block, int64_t start, int n, const float* weights, float* sum) {
        Left left = weights_;
        left.depth = n / STEP;
        for (int i = 0; i < count; i += SIDE)
            split_rows(weights + i * WIDTH, WIDTH, std::min(SIDE, count - i), n, left, i / SIDE);
        for (int i = 0; i < count; i += 2 * SIDE)
            for (int c = 0; c < size_; c += 2 * SIDE) {
                Right values = block.values;
                values.data += c / SIDE * values.next + start / STEP * values.parts * TILE;
                tile_product(std::min(2 * SIDE, count - i), std::min(2 * SIDE, size_ - c), left, i / SIDE, values,
                             left.depth, sum + static_cast<int64_t>(i) * size_ + c, size_, true);
            }
    }

  private:
    static int64_t bytes_of(int count, int columns) {
        return 2 * Left::values(count, columns) + ((Left::flags(count, columns) + 63) & ~int64_t(63));
    }
    static Left left(uint8_t*& scratch, int count, int columns) {
        Left made{reinterpret_cast<uint16_t*>(scratch), scratch + 2 * Left::values(count, columns),
                  static_cast<int>(blocks(columns, STEP))};
        scratch += bytes_of(count, columns);
        return made;
    }
    int size_;
    Left q_, weights_;
};

}  // namespace ISA
