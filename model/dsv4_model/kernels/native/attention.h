// The attention site of one layer: projections, cache updates, selection, attention, output projection.
#pragma once
#include "attend_many.h"
#include "compress.h"
#include "index.h"

namespace ISA {

constexpr int FEW_TOKENS = 4;  // of a chunk, up to which its tokens are computed one by one

struct Projected {
    float *q, *own;                          // queries [tokens][heads][size], decoded rows [tokens][size]
    float *values, *gates;                   // compressor inputs
    float *key_values, *key_gates;           // of the indexer
    float *index_q, *index_weights;          // [tokens][index heads][index size], [tokens][index heads]
    uint8_t* stored;                         // rows [tokens][row_bytes]
};

// Everything that is linear in x, in two regions.
static Projected project(Run& run, const Layer& layer, const float* x) {
    const Model& m = run.model;
    const int n = run.tokens, size = m.head_dim, pairs = m.rotary / 2;
    const bool csa = layer.keys >= 0;
    const float* xq = run.rounded(x, n, m.hidden);
    Projected p{};
    float* latent = run.floats(n, m.q_lora);
    p.own = run.floats(n, size);
    Product first[8];
    int count = 0;
    first[count++] = run.product(layer.wq_a, xq, latent);
    first[count++] = run.product(layer.wkv, xq, p.own);
    if (layer.ratio) {
        const int channels = layer.compressor.wkv.rows;
        p.values = run.floats(n, channels);
        p.gates = run.floats(n, channels);
        first[count++] = run.product(layer.compressor.wkv, x, p.values);
        first[count++] = run.product(layer.compressor.wgate, x, p.gates);
    }
    if (csa) {
        const int channels = layer.indexer_compressor.wkv.rows;
        p.key_values = run.floats(n, channels);
        p.key_gates = run.floats(n, channels);
        p.index_weights = run.floats(n, m.index_heads);
        first[count++] = run.product(layer.indexer_compressor.wkv, x, p.key_values);
        first[count++] = run.product(layer.indexer_compressor.wgate, x, p.key_gates);
        first[count++] = run.product(layer.indexer_weights, x, p.index_weights);
    }
    run.multiply_all(first, count);

    p.stored = run.arena().take<uint8_t>(static_cast<int64_t>(n) * m.row_bytes);
    run.each(n, 4, [&](int i, int) {
        float* kv = p.own + static_cast<int64_t>(i) * size;
        normalize(latent + static_cast<int64_t>(i) * m.q_lora, layer.q_norm, m.q_lora, m.eps,
                  latent + static_cast<int64_t>(i) * m.q_lora);
        normalize(kv, layer.kv_norm, size, m.eps, kv);
        rotate(kv + size - m.rotary, pairs, run.cos(i, layer.ratio), run.sin(i, layer.ratio), 1.0f);
        if (m.rounds && m.row_storage != FP8) round_fp8(kv, size - m.rotary, KV_GROUP);
        uint8_t* stored = p.stored + static_cast<int64_t>(i) * m.row_bytes;
        encode_row(m, kv, stored);
        decode_row(m, stored, kv);
    });

    const float* qr = run.rounded(latent, n, m.q_lora);
    p.q = run.floats(n, static_cast<int64_t>(m.heads) * size);
    Product second[2];
    count = 0;
    second[count++] = run.product(layer.wq_b, qr, p.q);
    if (csa) {
        p.index_q = run.floats(n, m.index_heads * m.index_dim);
        // Nobody asks the indexer while everything may be seen anyway.
        bool asked = false;
        for (int c = 0; c < run.count; c++)
            asked |= (run.chunks[c].position + run.chunks[c].count) / layer.ratio > m.index_topk;
        if (asked) second[count++] = run.product(layer.indexer_wq_b, qr, p.index_q);
    }
    run.multiply_all(second, count);
    run.each(n, 2, [&](int i, int) {
        for (int h = 0; h < m.heads; h++) {
            float* q = p.q + (static_cast<int64_t>(i) * m.heads + h) * size;
            normalize(q, nullptr, size, m.eps, q);
            rotate(q + size - m.rotary, pairs, run.cos(i, layer.ratio), run.sin(i, layer.ratio), 1.0f);
        }
    });
    return p;
}

// Feed the compressors of one chunk; new entries and keys go to its pages.
static void update(Run& run, const Layer& layer, const Chunk& chunk, const Projected& p, int64_t first) {
    const Model& m = run.model;
    if (!layer.ratio) return;
    const int size = m.head_dim, channels = layer.compressor.wkv.rows;
    auto ring = [&](int64_t offset) { return reinterpret_cast<float*>(chunk.rings + offset); };
    compress(run, layer.compressor, chunk, layer.ratio, size, p.values + first * channels, p.gates + first * channels,
             ring(layer.values), ring(layer.gates), layer.slots, [&](int64_t block, float* entry) {
                 if (m.rounds && m.row_storage != FP8) round_fp8(entry, size - m.rotary, KV_GROUP);
                 uint8_t* page = chunk.pages[block / layer.entries_per_page];
                 encode_row(m, entry, page + layer.entries + block % layer.entries_per_page * m.row_bytes);
             });
    if (layer.keys < 0) return;
    const int narrow = layer.indexer_compressor.wkv.rows;
    compress(run, layer.indexer_compressor, chunk, layer.ratio, m.index_dim, p.key_values + first * narrow,
             p.key_gates + first * narrow, ring(layer.key_values), ring(layer.key_gates), layer.slots,
             [&](int64_t block, float* key) {
                 if (m.rounds || m.key_storage == FP8 || m.key_storage == FP4) hadamard(key, m.index_dim);
                 if (m.rounds && m.key_storage != FP4) {
                     uint8_t codes[1024], exponents[32];
                     encode_fp4(key, m.index_dim, codes, exponents);
                     for (int i = 0; i < m.index_dim; i++)
                         key[i] = FP4_VALUES[codes[i]] * from_exponent(exponents[i / KEY_GROUP]);
                 }
                 encode_key(m, key, static_cast<int>(block % KEYS), chunk.pages[block / KEYS] + layer.keys);
             });
}

// The entries that token `i` of the run may attend to: [topk] numbers.
struct Selection {
    int32_t* chosen;  // [tokens of the chunk][topk], filled where a token sees more than topk
    int first_sparse;  // the first such token of the chunk
};

static Selection choose(Run& run, const Layer& layer, const Chunk& chunk, const Projected& p, int first) {
    const Model& m = run.model;
    Selection s{nullptr, chunk.count};
    if (layer.keys < 0) return s;
    while (s.first_sparse > 0 && (chunk.position + s.first_sparse) / layer.ratio > m.index_topk) s.first_sparse--;
    if (s.first_sparse == chunk.count) return s;
    s.chosen = run.arena().take<int32_t>(static_cast<int64_t>(chunk.count) * m.index_topk);
    const int heads = m.index_heads, size = m.index_dim, groups = size / KEY_GROUP, pairs = m.rotary / 2;
    const int asked = chunk.count - s.first_sparse;
    const bool coarse = m.rounds || m.key_storage == FP4;
    int8_t* codes = run.arena().take<int8_t>(static_cast<int64_t>(asked) * heads * size);
    float* scales = run.floats(asked, heads * (groups + 1));
    int32_t* sums = run.arena().take<int32_t>(static_cast<int64_t>(asked) * heads * (groups + 1));
    const float factor = 1.0f / std::sqrt(static_cast<float>(size) * static_cast<float>(heads));
    auto query = [&](int t) {
        const int64_t i = first + s.first_sparse + t;
        return IndexQuery{p.index_q + i * heads * size, p.index_weights + i * heads,
                          codes + static_cast<int64_t>(t) * heads * size, scales + static_cast<int64_t>(t) * heads * groups,
                          sums + static_cast<int64_t>(t) * heads * groups};
    };
    run.each(asked, 4, [&](int t, int) {
        const int64_t i = first + s.first_sparse + t;
        float* q = p.index_q + i * heads * size;
        for (int h = 0; h < heads; h++) {
            rotate(q + h * size + size - m.rotary, pairs, run.cos(i, layer.ratio), run.sin(i, layer.ratio), 1.0f);
            if (m.rounds || m.key_storage == FP8 || m.key_storage == FP4) hadamard(q + h * size, size);
            p.index_weights[i * heads + h] *= factor;
        }
        if (coarse) prepare_query(m, q, codes + static_cast<int64_t>(t) * heads * size,
                                  scales + static_cast<int64_t>(t) * heads * groups,
                                  sums + static_cast<int64_t>(t) * heads * groups);
    });
    auto seen = [&](int t) { return (chunk.position + s.first_sparse + t + 1) / layer.ratio; };
    const int64_t pages = (seen(asked - 1) + KEYS - 1) / KEYS;
    auto out = [&](int t) { return s.chosen + static_cast<int64_t>(s.first_sparse + t) * m.index_topk; };
    if (asked > FEW_TOKENS) {
        float* scores = run.floats(run.pool().threads(), pages * KEYS);
        float* buffers = run.floats(run.pool().threads(), static_cast<int64_t>(size) * KEYS);
        run.each(asked, 1, [&](int t, int thread) {
            float* mine = scores + thread * pages * KEYS;
            score_pages(m, query(t), chunk.pages, layer.keys, 0, (seen(t) + KEYS - 1) / KEYS,
                        buffers + thread * size * KEYS, mine);
            best(mine, static_cast<int>(seen(t)), m.index_topk, out(t));
        });
        return s;
    }
    // One query: its keys are shared out.
    const int64_t step = 32, parts = (pages + step - 1) / step;
    float* scores = run.floats(asked, pages * KEYS);
    float* buffers = run.floats(run.pool().threads(), static_cast<int64_t>(size) * KEYS);
    run.pool().run(static_cast<int>(parts) * asked, [&](int job, int thread) {
        const int t = job / static_cast<int>(parts);
        const int64_t from = job % parts * step, to = std::min(from + step, (seen(t) + KEYS - 1) / KEYS);
        if (from < to)
            score_pages(m, query(t), chunk.pages, layer.keys, from, to, buffers + thread * size * KEYS,
                        scores + (t * pages + from) * KEYS);
    });
    run.each(asked, 1, [&](int t, int) {
        best(scores + t * pages * KEYS, static_cast<int>(seen(t)), m.index_topk, out(t));
    });
    return s;
}

// y [tokens, hidden] from normalised x; the caches of all chunks are brought up to date.
static void attention(Run& run, const Layer& layer, const float* x, float* y) {
    const Model& m = run.model;
    const int n = run.tokens, size = m.head_dim;
    Projected p = project(run, layer, x);
    float* out = run.floats(n, static_cast<int64_t>(m.heads) * size);
    int first = 0;
    for (int c = 0; c < run.count; first += run.chunks[c++].count) {
        const Chunk& chunk = run.chunks[c];
        update(run, layer, chunk, p, first);
        Selection selected = choose(run, layer, chunk, p, first);
        const float* own = p.own + static_cast<int64_t>(first) * size;
        const float* q = p.q + static_cast<int64_t>(first) * m.heads * size;
        float* target = out + static_cast<int64_t>(first) * m.heads * size;
        if (chunk.count > FEW_TOKENS) {
            attend_many(run, layer, chunk, first, q, own, selected.chosen,
                        [&](int t) { return t >= selected.first_sparse; }, target);
        } else {
            Sight* sights = static_cast<Sight*>(static_cast<void*>(run.arena().take<uint8_t>(chunk.count * sizeof(Sight))));
            for (int t = 0; t < chunk.count; t++) {
                const int64_t position = chunk.position + t;
                const int64_t begin = std::max<int64_t>(0, position - m.window + 1);
                const bool sparse = t >= selected.first_sparse;
                const int64_t entries = sparse ? m.index_topk : layer.ratio ? (position + 1) / layer.ratio : 0;
                new (&sights[t]) Sight{m, layer, chunk, own, begin, static_cast<int>(position - begin + 1), entries,
                                       sparse ? selected.chosen + static_cast<int64_t>(t) * m.index_topk : nullptr};
            }
            attend_few(run, sights, chunk.count, q, layer.sink, first, target);
        }
        const int kept = std::min(chunk.count, m.window);
        for (int t = chunk.count - kept; t < chunk.count; t++)
            std::memcpy(chunk.rings + layer.window + (chunk.position + t) % m.window * m.row_bytes,
                        p.stored + static_cast<int64_t>(first + t) * m.row_bytes, m.row_bytes);
    }
    const int inputs = m.heads * size / m.groups, latent = m.groups * m.o_lora;
    float* low = run.floats(n, latent);
    std::vector<Product> grouped(m.groups);
    for (int g = 0; g < m.groups; g++)
        grouped[g] = {&layer.wo_a, static_cast<int64_t>(g) * m.o_lora, m.o_lora, out + static_cast<int64_t>(g) * inputs,
                      static_cast<int64_t>(m.heads) * size, n, low + static_cast<int64_t>(g) * m.o_lora, latent};
    run.multiply_all(grouped.data(), m.groups);
    Product last = run.product(layer.wo_b, run.rounded(low, n, latent), y);
    run.multiply_all(&last, 1);
}

}  // namespace ISA
