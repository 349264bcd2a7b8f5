// Attention of many query heads over one shared K=V head (section 2.3), window rows and compressed entries in one
// softmax whose denominator also holds the sink.
#pragma once
#include "sight.h"
#if AMX
#include "amx_sight.h"
#endif

namespace ISA {

constexpr int ROWS_TOGETHER = 32;  // rows that are decoded at a time
constexpr int PART = 256;          // rows of one part of a single query's work; fixes the order of its sums

// scores [H][32] = q [H][size] times rows [n][size], scaled; the rows are read once for all H.
template <int H>
static void score_rows(const float* q, const float* rows, int n, int size, float scale, float* scores) {
    const int whole = size & ~15;
    auto rest = [&](int h, int r) {
        float total = 0;
        for (int c = whole; c < size; c++) total += q[h * size + c] * rows[r * size + c];
        return total;
    };
    int r = 0;
    for (; r + 4 <= n; r += 4) {
        vf acc[H][4] = {};
        for (int c = 0; c < whole; c += 16) {
            vf row[4];
            for (int i = 0; i < 4; i++) row[i] = load(rows + (r + i) * size + c);
            for (int h = 0; h < H; h++) {
                vf v = load(q + h * size + c);
                for (int i = 0; i < 4; i++) acc[h][i] += v * row[i];
            }
        }
        for (int h = 0; h < H; h++) {
            v4f dots = sums(acc[h][0], acc[h][1], acc[h][2], acc[h][3]);
            for (int i = 0; i < 4; i++) scores[h * ROWS_TOGETHER + r + i] = (dots[i] + rest(h, r + i)) * scale;
        }
    }
    for (; r < n; r++)
        for (int h = 0; h < H; h++) {
            vf acc{};
            for (int c = 0; c < whole; c += 16) acc += load(q + h * size + c) * load(rows + r * size + c);
            scores[h * ROWS_TOGETHER + r] = (sum(acc) + rest(h, r)) * scale;
        }
}

// out [H][size] += weights [H][32] times rows [n][size].
template <int H>
static void add_rows(const float* weights, const float* rows, int n, int size, float* out) {
    int c = 0;
    auto channels = [&](auto number) {
        constexpr int V = decltype(number)::value;
        for (; c + 16 * V <= size; c += 16 * V) {
            vf acc[H][V];
            for (int h = 0; h < H; h++)
                for (int v = 0; v < V; v++) acc[h][v] = load(out + h * size + c + 16 * v);
            for (int i = 0; i < n; i++) {
                vf row[V];
                for (int v = 0; v < V; v++) row[v] = load(rows + i * size + c + 16 * v);
                for (int h = 0; h < H; h++)
                    for (int v = 0; v < V; v++) acc[h][v] += row[v] * weights[h * ROWS_TOGETHER + i];
            }
            for (int h = 0; h < H; h++)
                for (int v = 0; v < V; v++) store(out + h * size + c + 16 * v, acc[h][v]);
        }
    };
    channels(std::integral_constant<int, 4>());
    channels(std::integral_constant<int, 1>());
    for (; c < size; c++)
        for (int h = 0; h < H; h++)
            for (int i = 0; i < n; i++) out[h * size + c] += rows[i * size + c] * weights[h * ROWS_TOGETHER + i];
}

// Add n <= 32 decoded rows [n][size] for H queries [H][size].
template <int H>
static void attend_heads(const float* q, const float* rows, int n, int size, float scale, Softmax s) {
    alignas(64) float scores[H * ROWS_TOGETHER];
    for (int h = 0; h < H; h++)
        for (int r = n; r < ROWS_TOGETHER; r++) scores[h * ROWS_TOGETHER + r] = -1e30f;
    score_rows<H>(q, rows, n, size, scale, scores);
    for (int h = 0; h < H; h++) {
        vf a = load(scores + h * ROWS_TOGETHER), b = load(scores + h * ROWS_TOGETHER + 16);
        float top = highest(max(a, b));
        if (top > s.top[h]) {
            float shrink = exp(splat(s.top[h] - top))[0];
            float* out = s.sum + static_cast<int64_t>(h) * size;
            s.top[h] = top;
            s.total[h] *= shrink;
            for (int c = 0; c < size; c++) out[c] *= shrink;
        }
        a = exp(a - s.top[h]);
        b = exp(b - s.top[h]);
        store(scores + h * ROWS_TOGETHER, a);
        store(scores + h * ROWS_TOGETHER + 16, b);
        s.total[h] += sum(a + b);
    }
    add_rows<H>(scores, rows, n, size, s.sum);
}

// The same for any number of queries.
static void attend_rows(const float* q, int heads, const float* rows, int n, int size, float scale, Softmax s) {
    int h = 0;
    auto next = [&](auto number) {
        constexpr int H = decltype(number)::value;
        for (; h + H <= heads; h += H)
            attend_heads<H>(q + static_cast<int64_t>(h) * size, rows, n, size, scale,
                            {s.top + h, s.total + h, s.sum + static_cast<int64_t>(h) * size});
    };
    next(std::integral_constant<int, 4>());
    next(std::integral_constant<int, 1>());
}

INLINE void begin(Softmax s, int heads, int size) {
    for (int h = 0; h < heads; h++) {
        s.top[h] = -1e30f;
        s.total[h] = 0;
    }
    std::memset(s.sum, 0, sizeof(float) * heads * size);
}

// Close the softmax with the sink: out [heads][size], the last channels rotated back to the query's position.
static void finish(const Model& m, Softmax s, const float* sink, int heads, const float* cos, const float* sin,
                   float* out) {
    const int size = m.head_dim;
    for (int h = 0; h < heads; h++) {
        float top = s.top[h] > sink[h] ? s.top[h] : sink[h];
        float shrink = std::exp(s.top[h] - top);
        float factor = shrink / (s.total[h] * shrink + std::exp(sink[h] - top));
        const float* in = s.sum + static_cast<int64_t>(h) * size;
        float* o = out + static_cast<int64_t>(h) * size;
        for (int c = 0; c < size; c++) o[c] = in[c] * factor;
        rotate(o + size - m.rotary, m.rotary / 2, cos, sin, -1.0f);
    }
}

// Rows `from .. to - 1` of a sight, for all heads.
static void attend_sight(const Sight& sight, int64_t from, int64_t to, const float* q, int heads, float scale,
                         Softmax s) {
#if AMX
    if (sight.m.row_storage != FP32) return attend_sight_in_tiles(sight, from, to, q, heads, scale, s);
#endif
    const int size = sight.m.head_dim;
    alignas(64) static thread_local float rows[ROWS_TOGETHER * MOST_CHANNELS];
    for (int64_t start = from; start < to; start += ROWS_TOGETHER) {
        int n = to - start < ROWS_TOGETHER ? static_cast<int>(to - start) : ROWS_TOGETHER;
        for (int i = 0; i < n; i++) {
            sight.announce(start + i + ROWS_TOGETHER);
            sight.decode(start + i, rows + i * size);
        }
        attend_rows(q, heads, rows, n, size, scale, s);
    }
}

// A few tokens: each one's rows are cut into parts that threads share; the parts are joined in their order.
static void attend_few(Run& run, const Sight* sights, int count, const float* q, const float* sink, int first_token,
                       float* out) {
    const Model& m = run.model;
    const int heads = m.heads, size = m.head_dim;
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    int64_t most = 1;
    for (int i = 0; i < count; i++) most = std::max(most, (sights[i].count() + PART - 1) / PART);
    const int parts = static_cast<int>(most);
    const int64_t width = heads * (size + 2);
    float* partial = run.floats(static_cast<int64_t>(count) * parts, width);
    auto at = [&](int token, int part) {
        float* p = partial + (static_cast<int64_t>(token) * parts + part) * width;
        return Softmax{p, p + heads, p + 2 * heads};
    };
    // Heads are shared out as well where one part is large.
    const int together = heads > 16 ? 16 : heads, groups = (heads + together - 1) / together;
    run.pool().run(count * parts * groups, [&](int job, int) {
        [[maybe_unused]] TileRegisters registers;
        const int group = job % groups, part = job / groups % parts, token = job / groups / parts;
        const int head = group * together, n = std::min(together, heads - head);
        Softmax s = at(token, part);
        s = {s.top + head, s.total + head, s.sum + static_cast<int64_t>(head) * size};
        begin(s, n, size);
        const Sight& sight = sights[token];
        const int64_t to = std::min<int64_t>(sight.count(), static_cast<int64_t>(part + 1) * PART);
        attend_sight(sight, static_cast<int64_t>(part) * PART, to,
                     q + (static_cast<int64_t>(token) * heads + head) * size, n, scale, s);
    });
    run.each(count, 1, [&](int token, int) {
        Softmax all = at(token, 0);
        for (int part = 1; part < parts; part++) {
            Softmax s = at(token, part);
            for (int h = 0; h < heads; h++) {
                if (s.total[h] == 0) continue;
                float top = std::max(all.top[h], s.top[h]);
                float mine = std::exp(all.top[h] - top), theirs = std::exp(s.top[h] - top);
                all.top[h] = top;
                all.total[h] = all.total[h] * mine + s.total[h] * theirs;
                float *sum = all.sum + static_cast<int64_t>(h) * size, *add = s.sum + static_cast<int64_t>(h) * size;
                for (int c = 0; c < size; c++) sum[c] = sum[c] * mine + add[c] * theirs;
            }
        }
        finish(m, all, sink, heads, run.cos(first_token + token, sights[token].layer.ratio),
               run.sin(first_token + token, sights[token].layer.ratio), out + static_cast<int64_t>(token) * heads * size);
    });
}

}  // namespace ISA
