// Attention of one token in tiles: some heads' three parts fill the rows of one tile, so that a product of a few heads
// costs little more than reading the rows. For caches whose rows are exact in bfloat16.
#pragma once
#include "sight.h"

namespace ISA {

constexpr int SPAN = 128;           // rows of one step
constexpr int BUNDLE = SIDE / PARTS;  // heads of one tile

// Decoded rows of one step, as bfloat16: one after the other, and in pairs for sums over rows. The columns of a pair of
// tiles of 16 are in the order that the quarters of registers give them: 0-3, 8-11, 16-19, 24-27, then the others.
class SpanRows {
  public:
    SpanRows() : memory_(new (std::align_val_t(64)) uint16_t[2 * SPAN * MOST_CHANNELS]) {}
    ~SpanRows() { ::operator delete[](memory_, std::align_val_t(64)); }
    SpanRows(const SpanRows&) = delete;

    void take(const Sight& sight, int64_t from, int n) {
        const Model& m = sight.m;
        width_ = static_cast<int>(blocks(m.head_dim, STEP)) * STEP;
        steps_ = static_cast<int>(blocks(n, STEP));
        for (int i = 0; i < n; i++) {
            sight.announce(from + i + STEP);
            uint16_t* out = memory_ + i * width_;
            if (const float* row = sight.fresh(from + i))
                for (int c = 0; c < m.head_dim; c++) out[c] = to_bf16(row[c]);
            else
                decode_row(m, sight.stored(from + i), out);
            for (int c = m.head_dim; c < width_; c++) out[c] = 0;
        }
        std::memset(memory_ + n * width_, 0, sizeof(uint16_t) * (steps_ * STEP - n) * width_);
        for (int pair = 0; pair < steps_ * SIDE; pair++) {
            const uint16_t* row = memory_ + 2 * pair * width_;
            uint16_t* out = pairs() + pair / SIDE * (width_ / SIDE) * TILE + pair % SIDE * STEP;
            for (int c = 0; c < width_; c += STEP, out += 2 * TILE) {
                const __m512i a = _mm512_loadu_si512(row + c), b = _mm512_loadu_si512(row + width_ + c);
                _mm512_store_si512(out, _mm512_unpacklo_epi16(a, b));
                _mm512_store_si512(out + TILE, _mm512_unpackhi_epi16(a, b));
            }
        }
    }
    int width() const { return width_; }
    int steps() const { return steps_; }
    const uint16_t* rows() const { return memory_; }
    // The tile of rows 32 step .. 32 step + 31 and sixteen columns.
    const uint16_t* pair_tile(int step, int columns) const {
        return memory_ + SPAN * MOST_CHANNELS + (step * (width_ / SIDE) + columns) * TILE;
    }

  private:
    uint16_t* pairs() { return memory_ + SPAN * MOST_CHANNELS; }
    uint16_t* memory_;
    int width_ = 0, steps_ = 0;
};

// Parts of up to five heads [heads][size], as tiles whose column PARTS h + p is part p of head h.
static void pack_query(const float* q, int heads, int size, int width, uint16_t* out) {
    for (int k = 0; k < width; k += STEP, out += TILE) {
        __m512i columns[SIDE];
        for (auto& column : columns) column = _mm512_setzero_si512();
        for (int h = 0; h < heads; h++) {
            const float* p = q + h * size + k;
            parts_of(load_first(p, size - k), load_first(p + 16, size - k - 16), columns + PARTS * h);
        }
        transpose(columns);
        for (int i = 0; i < SIDE; i++) _mm512_store_si512(out + i * STEP, columns[i]);
    }
}

// Scores [heads][SPAN] of all rows of a span.
static void score_span(const SpanRows& span, const uint16_t* q, int heads, float scale, float* scores) {
    const int depth = span.width() / STEP, n = span.steps() * STEP;
    const int64_t line = span.width() * sizeof(uint16_t);
    alignas(64) float products[2 * SIDE * SIDE];
    for (int first = 0; first < n; first += 2 * SIDE) {
        const uint16_t *a = span.rows() + first * span.width(), *b = a + SIDE * span.width();
        settle(a);
        _tile_zero(0);
        _tile_zero(1);
        for (int k = 0; k < depth; k++) {
            _tile_loadd(6, q + k * TILE, 64);
            _tile_loadd(4, a + k * STEP, line);
            _tile_loadd(5, b + k * STEP, line);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 5, 6);
        }
        _tile_stored(0, products, 64);
        _tile_stored(1, products + SIDE * SIDE, 64);
        for (int half = 0; half < 2; half++) {
            __m512i columns[SIDE];
            for (int i = 0; i < SIDE; i++) columns[i] = _mm512_load_si512(products + (half * SIDE + i) * SIDE);
            transpose(columns);
            for (int h = 0; h < heads; h++) {
                vf part[PARTS];
                for (int p = 0; p < PARTS; p++) part[p] = reinterpret_cast<vf>(columns[PARTS * h + p]);
                store(scores + h * SPAN + first + half * SIDE, ((part[2] + part[1]) + part[0]) * scale);
            }
        }
    }
}

// Scores to weights: s.top and s.total go on, s.sum is scaled; `weights` gets the tiles [steps][row PARTS h + p][32].
static void weigh_span(float* scores, int heads, int n, int steps, int size, Softmax s, uint16_t* weights) {
    for (int h = 0; h < heads; h++) {
        float* row = scores + h * SPAN;
        for (int i = n; i < steps * STEP; i++) row[i] = -1e30f;
        vf top = load(row);
        for (int i = SIDE; i < steps * STEP; i += SIDE) top = max(top, load(row + i));
        const float high = highest(top);
        if (high > s.top[h]) {
            const float shrink = exp(splat(s.top[h] - high))[0];
            float* sum = s.sum + static_cast<int64_t>(h) * size;
            s.top[h] = high;
            s.total[h] *= shrink;
            for (int c = 0; c < size; c++) sum[c] *= shrink;
        }
        vf total{};
        for (int step = 0; step < steps; step++) {
            vf a = exp(load(row + step * STEP) - s.top[h]), b = exp(load(row + step * STEP + SIDE) - s.top[h]);
            total += a + b;
            __m512i parts[PARTS];
            parts_of(a, b, parts);
            for (int p = 0; p < PARTS; p++)
                _mm512_store_si512(weights + step * TILE + (PARTS * h + p) * STEP, parts[p]);
        }
        s.total[h] += sum(total);
    }
}

// s.sum += weights times rows.
static void add_span(const SpanRows& span, const uint16_t* weights, int heads, int size, float* sum) {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    alignas(64) float products[2][SIDE * SIDE];
    for (int c = 0; c < size; c += STEP) {
        settle(weights);
        _tile_zero(0);
        _tile_zero(1);
        for (int step = 0; step < span.steps(); step++) {
            _tile_loadd(4, weights + step * TILE, 64);
            _tile_loadd(6, span.pair_tile(step, c / SIDE), 64);
            _tile_loadd(7, span.pair_tile(step, c / SIDE + 1), 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
        }
        _tile_stored(0, products[0], 64);
        _tile_stored(1, products[1], 64);
        for (int h = 0; h < heads; h++) {
            vf half[2];
            for (int i = 0; i < 2; i++) {
                const float* p = products[i] + PARTS * h * SIDE;
                half[i] = (load(p + 2 * SIDE) + load(p + SIDE)) + load(p);
            }
            const __m512 a = reinterpret_cast<__m512>(half[0]), b = reinterpret_cast<__m512>(half[1]);
            const vf ordered[2] = {reinterpret_cast<vf>(_mm512_permutex2var_ps(a, low, b)),
                                   reinterpret_cast<vf>(_mm512_permutex2var_ps(a, high, b))};
            for (int i = 0; i < 2; i++) {
                float* to = sum + static_cast<int64_t>(h) * size + c + i * SIDE;
                const int n = size - c - i * SIDE;
                if (n >= SIDE) store(to, load(to) + ordered[i]);
                else if (n > 0) store_part(to, load_part(to, n) + ordered[i], n);
            }
        }
    }
}

// Rows `from .. to - 1` of a sight, for all heads.
static void attend_sight_in_tiles(const Sight& sight, int64_t from, int64_t to, const float* q, int heads, float scale,
                                  Softmax s) {
    static thread_local SpanRows span;
    alignas(64) uint16_t query[MOST_CHANNELS * SIDE], weights[SPAN / STEP * TILE] = {};
    alignas(64) float scores[BUNDLE * SPAN];
    const int size = sight.m.head_dim;
    for (int64_t start = from; start < to; start += SPAN) {
        const int n = to - start < SPAN ? static_cast<int>(to - start) : SPAN;
        span.take(sight, start, n);
        for (int h = 0; h < heads; h += BUNDLE) {
            const int some = heads - h < BUNDLE ? heads - h : BUNDLE;
            const int64_t at = static_cast<int64_t>(h) * size;
            pack_query(q + at, some, size, span.width(), query);
            score_span(span, query, some, scale, scores);
            weigh_span(scores, some, n, span.steps(), size, {s.top + h, s.total + h, s.sum + at}, weights);
            add_span(span, weights, some, size, s.sum + at);
        }
    }
}

}  // namespace ISA
