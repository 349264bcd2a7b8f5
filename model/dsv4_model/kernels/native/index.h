// The lightning indexer (section 2.5): scores of all visible keys, and the best of them.
#pragma once
#include "run.h"

namespace ISA {

// The query of one token, in the form that its key storage wants.
struct IndexQuery {
    const float* q;        // [heads][size]
    const float* weights;  // [heads], scale included
    const int8_t* codes;   // FP4: twice the values, [heads][size]
    const float* scales;   // FP4: half the scale of each group, [heads][size / 32]
    const int32_t* sums;   // FP4: 12 times the sum of a group's codes, [heads][size / 32]
};

// Round a query to FP4 in place, and give its integer form.
static void prepare_query(const Model& m, float* q, int8_t* codes, float* scales, int32_t* sums) {
    static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const int n = m.index_dim, groups = n / KEY_GROUP;
    uint8_t code[1024], exponents[32];
    for (int h = 0; h < m.index_heads; h++) {
        encode_fp4(q + h * n, n, code, exponents);
        for (int g = 0; g < groups; g++) {
            float scale = from_exponent(exponents[g]);
            int32_t total = 0;
            for (int i = g * KEY_GROUP; i < (g + 1) * KEY_GROUP; i++) {
                codes[h * n + i] = twice[code[i]];
                total += twice[code[i]];
                q[h * n + i] = FP4_VALUES[code[i]] * scale;
            }
            // Both operands are doubled, so that a product is four times too large.
            scales[h * groups + g] = scale * 0.25f;
            sums[h * groups + g] = 12 * total;
        }
    }
}

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
    for (int64_t page = first; page < last; page++, out += KEYS) {
        const uint8_t* block = pages[page] + offset;
        // Pages lie far apart: what the hardware would not foresee is asked for three pages ahead.
        if (page + 3 < last) {
            const uint8_t* next = pages[page + 3] + offset;
            const int bytes = m.index_dim * KEYS / (m.key_storage == FP4 ? 2 : 1);
            for (int i = 0; i < bytes; i += 64) __builtin_prefetch(next + i, 0, 2);
        }
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

// The k best of n > k scores, in the order of their indices. Equal scores: the lower index first. The scores are
// replaced by integers of the same order.
static void best(float* scores, int n, int k, int32_t* out) {
    auto ranks = reinterpret_cast<int32_t*>(scores);
    const int whole = n & ~15;
    for (int i = 0; i < whole; i += 16) {
        vi v = load(ranks + i);
        store(ranks + i, v ^ ((v >> 31) & 0x7FFFFFFF));
    }
    for (int i = whole; i < n; i++) ranks[i] ^= (ranks[i] >> 31) & 0x7FFFFFFF;
    auto reaching = [&](int32_t floor) {
        vi found[4] = {};
        int i = 0;
        for (; i + 64 <= whole; i += 64)
            for (int j = 0; j < 4; j++) found[j] -= load(ranks + i + 16 * j) >= floor;
        for (; i < whole; i += 16) found[0] -= load(ranks + i) >= floor;
        vi all = (found[0] + found[1]) + (found[2] + found[3]);
        int count = 0;
        for (int j = 0; j < 16; j++) count += all[j];
        for (i = whole; i < n; i++) count += ranks[i] >= floor;
        return count;
    };
    // The k-th largest: the greatest floor that at least k reach.
    int64_t low = INT32_MIN, high = INT32_MAX;
    int above = 0;  // how many are better than the k-th largest
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        int count = reaching(static_cast<int32_t>(middle));
        if (count >= k) {
            low = middle;
            if (count == k) break;
        } else {
            high = middle - 1;
            above = count;
        }
    }
    const int32_t floor = static_cast<int32_t>(low);
    if (low < high) above = k - 1;  // all that reach it are wanted: no tie can be one too many
    int ties = low < high ? n : k - above;
    int found = 0;
    auto take = [&](int i) {
        if (ranks[i] > floor || (ranks[i] == floor && ties-- > 0)) out[found++] = i;
    };
    int i = 0;
#if defined(__AVX512F__)
    for (; i < whole; i += 16) {
        unsigned mask = _mm512_cmpge_epi32_mask(_mm512_loadu_si512(ranks + i), _mm512_set1_epi32(floor));
        for (; mask; mask &= mask - 1) take(i + __builtin_ctz(mask));
    }
#endif
    for (; i < n; i++) take(i);
}

}  // namespace ISA
