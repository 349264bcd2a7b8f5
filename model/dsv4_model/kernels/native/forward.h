// Whole passes: the main model over new tokens, and the MTP block that drafts.
#pragma once
#include "attention.h"
#include "hyper.h"
#include "moe.h"

namespace ISA {

// One layer, streams [tokens, h, d] in place.
static void layer_forward(Run& run, const Layer& layer, float* streams) {
    const Model& m = run.model;
    const int n = run.tokens, h = m.streams, d = m.hidden;
    Arena::Mark mark = run.arena().mark();
    float *x = run.floats(n, d), *y = run.floats(n, d), *post = run.floats(n, h), *comb = run.floats(n, h * h);
    int32_t* ids = run.arena().take<int32_t>(n);
    for (int t = 0; t < n; t++) ids[t] = run.token[t].id;
    mix(run, layer.attn_mixing, streams, n, layer.attn_norm, x, post, comb);
    attention(run, layer, x, y);
    unmix(run, y, post, comb, n, streams);
    mix(run, layer.ffn_mixing, streams, n, layer.ffn_norm, x, post, comb);
    moe(run, layer, x, ids, n, y);
    unmix(run, y, post, comb, n, streams);
    run.arena().release(mark);
}

// Token embeddings [n, d].
static void embed(Run& run, float* out) {
    const Model& m = run.model;
    run.each(run.tokens, 16, [&](int t, int) {
        for (int k = 0; k < m.hidden; k += 128)
            expand(m.embed, run.token[t].id, k, std::min(128, m.hidden - k), out + static_cast<int64_t>(t) * m.hidden + k);
    });
}

// Rows of the run that `wanted` (a member of Chunk) asks for.
static std::vector<int> rows_wanted(const Run& run, int32_t Chunk::*wanted) {
    std::vector<int> rows;
    int first = 0;
    for (int c = 0; c < run.count; first += run.chunks[c++].count) {
        const Chunk& chunk = run.chunks[c];
        if (chunk.*wanted == 1) rows.push_back(first + chunk.count - 1);
        if (chunk.*wanted == 2)
            for (int t = 0; t < chunk.count; t++) rows.push_back(first + t);
    }
    return rows;
}

static float* gather(Run& run, const std::vector<int>& rows, const float* from, int64_t width, float* to) {
    for (size_t i = 0; i < rows.size(); i++)
        std::memcpy(to + static_cast<int64_t>(i) * width, from + rows[i] * width, width * sizeof(float));
    (void)run;
    return to;
}

// Logits and streams that were asked for, through the given final collapse.
static void outputs(Run& run, const float* streams, const Mixing& site, const float* norm, float* logits,
                    float* streams_out) {
    const Model& m = run.model;
    const int64_t width = static_cast<int64_t>(m.streams) * m.hidden;
    std::vector<int> rows = rows_wanted(run, &Chunk::logits);
    const int n = static_cast<int>(rows.size());
    if (n && logits) {
        float* last = gather(run, rows, streams, width, run.floats(n, width));
        float* x = run.floats(n, m.hidden);
        collapse(run, site, last, n, norm, x);
        Product head{&m.head, 0, m.vocab, x, m.hidden, n, logits, m.vocab};
        run.multiply_all(&head, 1);
    }
    if (streams_out) gather(run, rows_wanted(run, &Chunk::streams), streams, width, streams_out);
}

static void forward(Run& run, float* logits, float* streams_out) {
    const Model& m = run.model;
    const int n = run.tokens, h = m.streams, d = m.hidden;
    float *embedded = run.floats(n, d), *streams = run.floats(n, static_cast<int64_t>(h) * d);
    embed(run, embedded);
    for (int t = 0; t < n; t++)
        for (int s = 0; s < h; s++)
            std::memcpy(streams + (static_cast<int64_t>(t) * h + s) * d, embedded + static_cast<int64_t>(t) * d,
                        d * sizeof(float));
    for (int l = 0; l < m.layers; l++) layer_forward(run, m.layer[l], streams);
    outputs(run, streams, m.head_mixing, m.norm, logits, streams_out);
}

// The MTP block (section 2.7): streams_in [tokens, h, d] at the chunks' positions, whose ids are one token later.
static void draft(Run& run, const float* streams_in, float* logits, float* streams_out) {
    const Model& m = run.model;
    const int n = run.tokens, h = m.streams, d = m.hidden;
    float *embedded = run.floats(n, d), *projected = run.floats(n, d);
    float *normal = run.floats(n, static_cast<int64_t>(h) * d), *streams = run.floats(n, static_cast<int64_t>(h) * d);
    embed(run, embedded);
    run.each(n, 4, [&](int t, int) {
        normalize(embedded + static_cast<int64_t>(t) * d, m.enorm, d, m.eps, embedded + static_cast<int64_t>(t) * d);
        for (int s = 0; s < h; s++) {
            const int64_t row = (static_cast<int64_t>(t) * h + s) * d;
            normalize(streams_in + row, m.hnorm, d, m.eps, normal + row);
        }
    });
    Product products[2] = {
        {&m.e_proj, 0, d, run.rounded(embedded, n, d), d, n, projected, d},
        {&m.h_proj, 0, d, run.rounded(normal, n * h, d), d, n * h, streams, d},
    };
    run.multiply_all(products, 2);
    run.each(n, 4, [&](int t, int) {
        for (int s = 0; s < h; s++) {
            float* row = streams + (static_cast<int64_t>(t) * h + s) * d;
            const float* add = projected + static_cast<int64_t>(t) * d;
            for (int i = 0; i < d; i++) row[i] += add[i];
        }
    });
    layer_forward(run, m.layer[m.layers], streams);
    outputs(run, streams, m.mtp_mixing, m.mtp_norm, logits, streams_out);
}

}  // namespace ISA
