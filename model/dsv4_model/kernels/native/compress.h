// The token compressor (section 2.4): every `ratio` tokens become one entry, for CSA with the block before.
#pragma once
#include "run.h"

namespace ISA {

constexpr int PAGE_TOKENS = 128;

// Where a compressor's inputs of a position are: in this call's rows, or in the ring.
struct BlockInputs {
    const float *values, *gates;  // [tokens of the chunk, channels]; gates without the position bias
    float *ring_values, *ring_gates;
    const float* ape;
    int64_t start;
    int channels, ratio, slots;
};

// One channel-wise softmax pool: the block whose last token is at `last`; out [size].
static void pool_block(const BlockInputs& in, int64_t last, int size, float* out) {
    const int ratio = in.ratio;
    const bool overlap = in.channels > size;
    const int64_t first = last - ratio + 1;
    const float *value[256], *gate[256];
    int n = 0;
    auto add = [&](int64_t position, int offset) {
        if (position >= in.start) {
            value[n] = in.values + (position - in.start) * in.channels + offset;
            gate[n] = in.gates + (position - in.start) * in.channels + offset;
        } else {
            int64_t slot = position % in.slots;
            value[n] = in.ring_values + slot * in.channels + offset;
            gate[n] = in.ring_gates + slot * in.channels + offset;
        }
        n++;
    };
    if (overlap && first > 0)
        for (int i = 0; i < ratio; i++) add(first - ratio + i, 0);
    for (int i = 0; i < ratio; i++) add(first + i, overlap ? size : 0);
    int c = 0;
    for (; c + 16 <= size; c += 16) {
        vf top = load(gate[0] + c);
        for (int i = 1; i < n; i++) top = max(top, load(gate[i] + c));
        vf total{}, weighed{};
        for (int i = 0; i < n; i++) {
            vf e = exp(load(gate[i] + c) - top);
            total += e;
            weighed += e * load(value[i] + c);
        }
        store(out + c, weighed / total);
    }
    for (; c < size; c++) {
        float top = gate[0][c], total = 0, weighed = 0;
        for (int i = 1; i < n; i++) top = gate[i][c] > top ? gate[i][c] : top;
        for (int i = 0; i < n; i++) {
            float e = std::exp(gate[i][c] - top);
            total += e;
            weighed += e * value[i][c];
        }
        out[c] = weighed / total;
    }
}

// Consume one chunk's inputs: `write(block, entry)` for each block that it closes, then the rings are brought up to
// date. `values` and `gates` [count, channels]; the position bias is added to `gates` in place.
template <class F>
static void compress(Run& run, const Compressor& weights, const Chunk& chunk, int ratio, int size, float* values,
                     float* gates, float* ring_values, float* ring_gates, int slots, F&& write) {
    const Model& m = run.model;
    const int channels = weights.wkv.rows, pairs = m.rotary / 2;
    run.each(chunk.count, 16, [&](int t, int) {
        const float* bias = weights.ape + (chunk.position + t) % ratio * channels;
        float* gate = gates + static_cast<int64_t>(t) * channels;
        for (int c = 0; c < channels; c++) gate[c] += bias[c];
    });
    BlockInputs in{values, gates, ring_values, ring_gates, weights.ape, chunk.position, channels, ratio, slots};
    const int64_t before = chunk.position / ratio, after = (chunk.position + chunk.count) / ratio;
    // A job takes some slots of a page, and those sixteen further, whose index keys lie in the same bytes.
    const int64_t per_page = PAGE_TOKENS / ratio, lanes = per_page > 16 ? 16 : per_page, step = lanes > 4 ? 4 : lanes;
    const int64_t first_page = before / per_page, pages = after > before ? (after - 1) / per_page - first_page + 1 : 0;
    const int64_t per_lane = lanes / step;
    run.pool().run(static_cast<int>(pages * per_lane), [&](int job, int) {
        const int64_t start = (first_page + job / per_lane) * per_page, from = job % per_lane * step;
        for (int64_t slot = 0; slot < per_page; slot++) {
            const int64_t block = start + slot;
            if (slot % lanes < from || slot % lanes >= from + step || block < before || block >= after) continue;
            float entry[1024], cos[256], sin[256];
            pool_block(in, (block + 1) * ratio - 1, size, entry);
            normalize(entry, weights.norm, size, m.eps, entry);
            angles_of(m.frequencies_compressed, pairs, block * ratio, cos, sin);
            rotate(entry + size - m.rotary, pairs, cos, sin, 1.0f);
            write(block, entry);
        }
    });
    const int kept = chunk.count < slots ? chunk.count : slots;
    for (int t = chunk.count - kept; t < chunk.count; t++) {
        int64_t slot = (chunk.position + t) % slots * channels, row = static_cast<int64_t>(t) * channels;
        std::memcpy(ring_values + slot, values + row, channels * sizeof(float));
        std::memcpy(ring_gates + slot, gates + row, channels * sizeof(float));
    }
}

}  // namespace ISA
