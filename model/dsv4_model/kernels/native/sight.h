// What one token attends to, and what it has added up of that so far.
#pragma once
#include "run.h"

namespace ISA {

constexpr int MOST_CHANNELS = 1024;

// Running softmax of some heads: greatest score, sum of weights, weighted sum of rows [head_dim].
struct Softmax {
    float *top, *total, *sum;
};

// Rows by numbers 0 .. window - 1 for window rows and on for entries.
struct Sight {
    const Model& m;
    const Layer& layer;
    const Chunk& chunk;
    const float* own;  // decoded rows of the chunk's tokens
    int64_t first;     // position of the first window row
    int window;        // window rows
    int64_t entries;   // compressed entries
    const int32_t* chosen;  // their numbers; absent: 0, 1, 2 ...
    int first_slot = static_cast<int>(first % m.window);  // divisions take as long as decoding half a row
    int shift = layer.entries_per_page > 0 ? __builtin_ctz(layer.entries_per_page) : 0;

    int64_t count() const { return window + entries; }
    const uint8_t* entry(int64_t number) const {
        const int64_t entry = chosen ? chosen[number - window] : number - window;
        const uint8_t* page = chunk.pages[entry >> shift];
        return page + layer.entries + (entry & ((1 << shift) - 1)) * m.row_bytes;
    }
    // Start bringing a row that will soon be decoded: chosen ones lie far apart.
    void announce(int64_t number) const {
        if (number >= count() || fresh(number)) return;
        const uint8_t* row = stored(number);
        for (int i = 0; i < m.row_bytes; i += 64) __builtin_prefetch(row + i);
    }
    // A row of this chunk, decoded, or absent where the row is stored.
    const float* fresh(int64_t number) const {
        const int64_t index = first + number - chunk.position;
        return number < window && index >= 0 ? own + index * m.head_dim : nullptr;
    }
    const uint8_t* stored(int64_t number) const {
        if (number >= window) return entry(number);
        int64_t slot = first_slot + number;
        if (slot >= m.window) slot -= m.window;
        return chunk.rings + layer.window + slot * m.row_bytes;
    }
    void decode(int64_t number, float* out) const {
        if (const float* row = fresh(number))
            std::memcpy(out, row, m.head_dim * sizeof(float));
        else
            decode_row(m, stored(number), out);
    }
};

}  // namespace ISA
