// Attention of many tokens of one chunk: window rows and dense entries as matrix products.
#pragma once
#include "attend.h"
#if AMX
#include "amx_block.h"
#else
#include "panel_block.h"
#endif

namespace ISA {

// Queries of one job of `attend_many`, [tokens][heads].
struct Lines {
    Queries& queries;
    int tokens, heads;
    Softmax s;
};

// Add the rows low(token) .. high(token) - 1 of a block for every line.
template <class Low, class High>
static void attend_block(const Lines& lines, const Block& block, int size, float scale, Low low, High high,
                         float* scores) {
    const int count = lines.tokens * lines.heads;
    int64_t first = low(0), last = high(lines.tokens - 1);
    for (int64_t start = first / PANEL * PANEL; start < last; start += WIDTH) {
        const int n = std::min<int64_t>(WIDTH, (last - start + PANEL - 1) / PANEL * PANEL);
        lines.queries.score(count, block, start, n, scores);
        for (int line = 0; line < count; line++) {
            const int token = line / lines.heads;
            const int from = static_cast<int>(std::max<int64_t>(low(token) - start, 0));
            const int to = static_cast<int>(std::min<int64_t>(high(token) - start, n));
            float* row = scores + line * WIDTH;
            if (from >= to) {
                std::memset(row, 0, n * sizeof(float));
                continue;
            }
            for (int i = 0; i < from; i++) row[i] = -1e30f;
            for (int i = to; i < n; i++) row[i] = -1e30f;
            vf top = splat(-1e30f);
            for (int i = 0; i < n; i += 16) {
                vf v = max(load(row + i) * scale, splat(-1e30f)) + (load(row + i) - load(row + i));
                store(row + i, v);
                top = max(top, v);
            }
            float high_score = highest(top);
            float* out = lines.s.sum + static_cast<int64_t>(line) * size;
            if (high_score > lines.s.top[line]) {
                float shrink = exp(splat(lines.s.top[line] - high_score))[0];
                lines.s.top[line] = high_score;
                lines.s.total[line] *= shrink;
                for (int c = 0; c < size; c++) out[c] *= shrink;
            }
            vf total{};
            for (int i = 0; i < n; i += 16) {
                vf p = exp(load(row + i) - lines.s.top[line]);
                store(row + i, p);
                total += p;
            }
            lines.s.total[line] += sum(total);
        }
        lines.queries.add(count, block, start, n, scores, lines.s.sum);
    }
}

// Many tokens of one chunk: window rows and dense entries as matrix products over blocks of queries; entries chosen
// token by token as in `attend_few`. `chosen`: [tokens][topk] where `sparse(token)`.
template <class Sparse>
static void attend_many(Run& run, const Layer& layer, const Chunk& chunk, int first_token, const float* q,
                        const float* own, const int32_t* chosen, Sparse sparse, float* out) {
    const Model& m = run.model;
    const int heads = m.heads, size = m.head_dim, window = m.window;
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    const int64_t older = std::min<int64_t>(chunk.position, window - 1);
    Block near{};
    near.count = older + chunk.count;
    near.rows = run.floats(near.count, size);
    run.each(static_cast<int>(near.count), 16, [&](int i, int) {
        const int64_t position = chunk.position - older + i;
        float* row = near.rows + static_cast<int64_t>(i) * size;
        if (position >= chunk.position)
            std::memcpy(row, own + (position - chunk.position) * size, size * sizeof(float));
        else
            decode_row(m, chunk.rings + layer.window + position % window * m.row_bytes, row);
    });
    near.fill(run, size);
    auto seen = [&](int token) { return layer.ratio ? (chunk.position + token + 1) / layer.ratio : 0; };
    // Dense entries are a prefix of the chunk's tokens: once there are too many, every later token is sparse.
    int dense = 0;
    while (dense < chunk.count && !sparse(dense)) dense++;
    Block far{};
    far.count = dense ? seen(dense - 1) : 0;
    if (far.count) {
        far.rows = run.floats(far.count, size);
        Sight all{m, layer, chunk, own, 0, 0, far.count, nullptr};
        run.each(static_cast<int>(far.count), 16, [&](int i, int) { all.decode(i, far.rows + static_cast<int64_t>(i) * size); });
        far.fill(run, size);
    }
    const int together = std::max(1, 64 / heads);
    const int jobs = (chunk.count + together - 1) / together, most = together * heads;
    const int64_t width = (most * (size + 2 + WIDTH) + 15) & ~15;
    const int64_t packed = Queries::scratch_bytes(most, size);
    float* scratch = run.floats(run.pool().threads(), width);
    uint8_t* packs = run.arena().template take<uint8_t>(run.pool().threads() * packed);
    run.pool().run(jobs, [&](int job, int thread) {
        [[maybe_unused]] TileRegisters registers;
        const int start = job * together, n = std::min(together, chunk.count - start);
        float* mine = scratch + thread * width;
        Softmax s{mine, mine + most, mine + 2 * most};
        float* scores = mine + most * (size + 2);
        begin(s, n * heads, size);
        const float* own_q = q + static_cast<int64_t>(start) * heads * size;
        Queries queries(own_q, n * heads, size, packs + thread * packed);
        Lines lines{queries, n, heads, s};
        attend_block(
            lines, near, size, scale, [&](int t) { return std::max<int64_t>(0, start + t + older - window + 1); },
            [&](int t) { return start + t + older + 1; }, scores);
        const int dense_here = std::min(n, dense - start);
        if (far.count && dense_here > 0) {
            Lines some{queries, dense_here, heads, s};
            attend_block(some, far, size, scale, [](int) { return int64_t(0); },
                         [&](int t) { return seen(start + t); }, scores);
        }
        for (int t = std::max(0, dense_here); t < n; t++) {
            Sight sight{m, layer, chunk, own, 0, 0, m.index_topk, chosen + static_cast<int64_t>(start + t) * m.index_topk};
            attend_sight(sight, 0, m.index_topk, own_q + static_cast<int64_t>(t) * heads * size, heads, scale,
                         {s.top + t * heads, s.total + t * heads, s.sum + static_cast<int64_t>(t) * heads * size});
        }
        for (int t = 0; t < n; t++) {
            const int number = first_token + start + t;
            finish(m, {s.top + t * heads, s.total + t * heads, s.sum + static_cast<int64_t>(t) * heads * size}, layer.sink,
                   heads, run.cos(number, layer.ratio), run.sin(number, layer.ratio),
                   out + static_cast<int64_t>(start + t) * heads * size);
        }
    });
}

}  // namespace ISA
