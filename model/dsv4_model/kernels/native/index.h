// The lightning indexer (section 2.5): scores of all visible keys, and the best of them.
#pragma once
#include "amx_index.h"
#include "index_query.h"
#include "select.h"

namespace ISA {

// Scores of the 32 keys of a block given as fp32 [channels][32].
static void score_plain(const Model& m, const IndexQuery& query, const float* keys, float* out) {
    const int n = m.index_dim;
    vf total[2] = {};
    int h = 0;
    auto heads = [&](auto number) {
        constexpr int H = decltype(number)::value;
        vf dot[H][2] = {};
        for (int i = 0; i < n; i++) {
            vf k0 = load(keys + i * KEYS), k1 = load(keys + i * KEYS + 16);
            for (int j = 0; j < H; j++) {
                vf q = splat(query.q[(h + j) * n + i]);
                dot[j][0] += q * k0;
                dot[j][1] += q * k1;
            }
        }
        for (int j = 0; j < H; j++)
            for (int half = 0; half < 2; half++) total[half] += max(dot[j][half], vf{}) * query.weights[h + j];
        h += H;
    };
    while (h + 4 <= m.index_heads) heads(std::integral_constant<int, 4>());
    while (h < m.index_heads) heads(std::integral_constant<int, 1>());
    store(out, total[0]);
    store(out + 16, total[1]);
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
// The same straight from FP4: integer dot products of sixteen keys at a time, four channels each.
template <int H>
INLINE void score_heads(const IndexQuery& query, const uint8_t* block, int n, int h, vf total[2]) {
    const __m512i low = _mm512_set1_epi8(15);
    // The codes' doubled values plus 12, because one side of the product must be unsigned.
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    const uint8_t* exponents = block + KEYS * n / 2;
    const int groups = n / KEY_GROUP;
    vf dot[H][2] = {};
    for (int g = 0; g < groups; g++) {
        __m512i acc[H][2];
        for (int j = 0; j < H; j++) acc[j][0] = acc[j][1] = _mm512_setzero_si512();
        for (int quad = g * 8; quad < g * 8 + 8; quad++) {
            __m512i packed = _mm512_loadu_si512(block + quad * 64);
            __m512i k0 = _mm512_shuffle_epi8(table, _mm512_and_si512(packed, low));
            __m512i k1 = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(packed, 4), low));
            for (int j = 0; j < H; j++) {
                int32_t four;
                std::memcpy(&four, query.codes + (h + j) * n + quad * 4, 4);
                __m512i q = _mm512_set1_epi32(four);
                acc[j][0] = _mm512_dpbusd_epi32(acc[j][0], k0, q);
                acc[j][1] = _mm512_dpbusd_epi32(acc[j][1], k1, q);
            }
        }
        vf scale[2];
        for (int half = 0; half < 2; half++) {
            __m128i e = _mm_loadu_si128(reinterpret_cast<const __m128i*>(exponents + g * KEYS + 16 * half));
            scale[half] = reinterpret_cast<vf>(_mm512_slli_epi32(_mm512_cvtepu8_epi32(e), 23));
        }
        for (int j = 0; j < H; j++) {
            __m512i offset = _mm512_set1_epi32(query.sums[(h + j) * groups + g]);
            float qs = query.scales[(h + j) * groups + g];
            for (int half = 0; half < 2; half++) {
                vf value = reinterpret_cast<vf>(_mm512_cvtepi32_ps(_mm512_sub_epi32(acc[j][half], offset)));
                dot[j][half] += value * (scale[half] * qs);
            }
        }
    }
    for (int j = 0; j < H; j++)
        for (int half = 0; half < 2; half++) total[half] += max(dot[j][half], vf{}) * query.weights[h + j];
}
#endif

// Scores of the keys of pages first .. last - 1 into out [(last - first) * 32].
static void score_pages(const Model& m, const IndexQuery& query, const uint8_t* const* pages, int64_t offset,
                        int64_t first, int64_t last, float* buffer, float* out) {
#if AMX
    std::optional<IndexTiles> tiles;
    if (IndexTiles::fits(m)) tiles.emplace(m, query);
#endif
    for (int64_t page = first; page < last; page++, out += KEYS) {
        const uint8_t* block = pages[page] + offset;
        // Pages lie far apart: what the hardware would not foresee is asked for eight pages ahead.
        if (page + 8 < last) {
            const uint8_t* next = pages[page + 8] + offset;
            const int bytes = m.index_dim * KEYS / (m.key_storage == FP4 ? 2 : 1);
            for (int i = 0; i < bytes; i += 64) __builtin_prefetch(next + i);
        }
#if AMX
        if (tiles) {
            tiles->score(block, out);
            continue;
        }
#endif
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
        if (m.key_storage == FP4) {
            vf total[2] = {};
            int h = 0;
            for (; h + 8 <= m.index_heads; h += 8) score_heads<8>(query, block, m.index_dim, h, total);
            for (; h < m.index_heads; h++) score_heads<1>(query, block, m.index_dim, h, total);
            store(out, total[0]);
            store(out + 16, total[1]);
            continue;
        }
#endif
        if (m.key_storage == FP32) {
            score_plain(m, query, reinterpret_cast<const float*>(block), out);
        } else {
            decode_keys(m, block, buffer);
            score_plain(m, query, buffer, out);
        }
    }
}

}  // namespace ISA
