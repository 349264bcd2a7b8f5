// The whole engine for one instruction set: compiled once for each, with -DISA=name.
#include "abi.h"
#include "functions.h"
#include "forward.h"

namespace ISA {

// Scratch memory is given back and failures become a status.
template <class F>
static int guarded(Engine& engine, F&& f) {
    Arena::Mark mark = engine.arena.mark();
    int status = OK;
    try {
        f();
    } catch (const std::bad_alloc&) {
        status = NO_MEMORY;
    } catch (const ExpertsFailed&) {
        status = EXPERTS_FAILED;
    }
    engine.arena.release(mark);
    return status;
}

static int forward_(Engine& e, const Model& m, const Chunk* chunks, int n, float* logits, float* streams,
                    int64_t* counts) {
    return guarded(e, [&] {
        Run run(e, m, chunks, n);
        run.expert_counts = counts;
        forward(run, logits, streams);
    });
}
static int draft_(Engine& e, const Model& m, const Chunk* chunks, int n, const float* streams_in, float* logits,
                  float* streams_out) {
    return guarded(e, [&] {
        Run run(e, m, chunks, n);
        draft(run, streams_in, logits, streams_out);
    });
}
static int matmul_(Engine& e, const Matrix& w, const float* x, int rows, float* y) {
    return guarded(e, [&] {
        Product product{&w, 0, w.rows, x, w.columns, rows, y, w.rows};
        multiply(e.pool, e.arena, &product, 1);
    });
}
static int mix_(Engine& e, const Model& m, const Mixing& site, const float* streams, int rows, float* x, float* post,
                float* comb) {
    return guarded(e, [&] {
        Run run(e, m, nullptr, 0);
        mix(run, site, streams, rows, nullptr, x, post, comb);
    });
}
static int unmix_(Engine& e, const Model& m, const float* y, const float* post, const float* comb, int rows,
                  float* streams) {
    return guarded(e, [&] {
        Run run(e, m, nullptr, 0);
        unmix(run, y, post, comb, rows, streams);
    });
}
static int moe_(Engine& e, const Model& m, const Layer& layer, const float* x, const int32_t* ids, int rows, float* y) {
    return guarded(e, [&] {
        Run run(e, m, nullptr, 0);
        moe(run, layer, x, ids, rows, y);
    });
}
static int attend_(Engine& e, const Model& m, const Layer& layer, const Chunk& chunk, const float* x, float* y) {
    return guarded(e, [&] {
        Run run(e, m, &chunk, 1);
        attention(run, layer, x, y);
    });
}
static int index_(Engine& e, const Model& m, const Layer& layer, const uint8_t* const* pages, const float* q,
                  const float* weights, int keys, float* scores, int32_t* chosen) {
    return guarded(e, [&] {
        const int heads = m.index_heads, size = m.index_dim, groups = size / KEY_GROUP;
        float* query = e.arena.take<float>(heads * size);
        std::memcpy(query, q, sizeof(float) * heads * size);
        int8_t* codes = e.arena.take<int8_t>(heads * size);
        float* scales = e.arena.take<float>(heads * (groups + 1));
        int32_t* sums = e.arena.take<int32_t>(heads * (groups + 1));
        if (m.key_storage == FP4) prepare_query(m, query, codes, scales, sums);
        const int count = (keys + KEYS - 1) / KEYS;
        float *buffer = e.arena.take<float>(size * KEYS), *all = e.arena.take<float>(count * KEYS);
        score_pages(m, {query, weights, codes, scales, sums}, pages, layer.keys, 0, count, buffer, all);
        std::memcpy(scores, all, sizeof(float) * keys);
        if (keys > m.index_topk) best(all, keys, m.index_topk, chosen);
    });
}
static void encode_rows_(const Model& m, const float* rows, int count, uint8_t* out) {
    for (int i = 0; i < count; i++) encode_row(m, rows + static_cast<int64_t>(i) * m.head_dim, out + static_cast<int64_t>(i) * m.row_bytes);
}
static void decode_rows_(const Model& m, const uint8_t* rows, int count, float* out) {
    for (int i = 0; i < count; i++) decode_row(m, rows + static_cast<int64_t>(i) * m.row_bytes, out + static_cast<int64_t>(i) * m.head_dim);
}

#define NAME_OF(x) #x
#define NAME(x) NAME_OF(x)
extern const Functions functions;
const Functions functions = {NAME(ISA), forward_, draft_, matmul_, mix_,         unmix_,
                             moe_,      attend_,  index_, encode_rows_, decode_rows_};

}  // namespace ISA
