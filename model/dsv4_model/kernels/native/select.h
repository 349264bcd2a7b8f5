// The best of many scores.
#pragma once
#include <vector>

#include "simd.h"

namespace ISA {

// Which of some ranks are taken: all above `floor`, and the first `ties` that equal it.
struct Cut {
    int32_t floor;
    int ties;
};

INLINE int count_from(const int32_t* ranks, int n, int32_t floor) {
    const int whole = n & ~15;
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
}

// The cut that takes the k best, by bisection: at least k ranks reach `low`, fewer exceed `high`.
static Cut cut(const int32_t* ranks, int n, int k, int64_t low, int64_t high) {
    int above = 0;  // how many are better than the k-th largest
    while (low < high) {
        const int64_t middle = low + (high - low + 1) / 2;
        const int count = count_from(ranks, n, static_cast<int32_t>(middle));
        // All that reach it are wanted: no tie can be one too many.
        if (count == k) return {static_cast<int32_t>(middle), n};
        if (count > k) {
            low = middle;
        } else {
            high = middle - 1;
            above = count;
        }
    }
    return {static_cast<int32_t>(low), k - above};
}

// The ranks in low .. high go to `out`, which has room for sixteen more. Returns how many are above.
static int gather_between(const int32_t* ranks, int n, int32_t low, int32_t high, int32_t* out, int& found) {
    int above = 0, i = 0;
    found = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
        const __m512i v = _mm512_loadu_si512(ranks + i);
        const __mmask16 over = _mm512_cmpgt_epi32_mask(v, _mm512_set1_epi32(high));
        const __mmask16 inside = _mm512_cmpge_epi32_mask(v, _mm512_set1_epi32(low)) & ~over;
        _mm512_storeu_si512(out + found, _mm512_maskz_compress_epi32(inside, v));
        found += __builtin_popcount(inside);
        above += __builtin_popcount(over);
    }
#endif
    for (; i < n; i++) {
        out[found] = ranks[i];
        found += ranks[i] >= low && ranks[i] <= high;
        above += ranks[i] > high;
    }
    return above;
}

// The same cut for many ranks: a sample says between which two it must lie; only those there are looked at closely.
static Cut cut_of_many(const int32_t* ranks, int n, int k) {
    constexpr int SAMPLE = 256, MARGIN = 24;  // three standard deviations of a median
    if (n >= 8 * SAMPLE) {
        int32_t sample[SAMPLE];
        for (int i = 0; i < SAMPLE; i++) sample[i] = ranks[static_cast<int64_t>(i) * n / SAMPLE];
        const int at = static_cast<int>(static_cast<int64_t>(k) * SAMPLE / n);
        // Bisection again: a sort of 256 takes longer than all the rest.
        auto nth = [&](int number) { return cut(sample, SAMPLE, number, INT32_MIN, INT32_MAX).floor; };
        const int32_t high = at > MARGIN ? nth(at - MARGIN) : INT32_MAX;
        const int32_t low = at + MARGIN < SAMPLE ? nth(at + MARGIN) : INT32_MIN;
        static thread_local std::vector<int32_t> between;
        between.resize(n + 16);
        int found;
        const int above = gather_between(ranks, n, low, high, between.data(), found);
        if (above < k && above + found >= k) {
            const Cut inner = cut(between.data(), found, k - above, low, high);
            return {inner.floor, inner.ties == found ? n : inner.ties};
        }
    }
    return cut(ranks, n, k, INT32_MIN, INT32_MAX);
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
    Cut limit = cut_of_many(ranks, n, k);
    int found = 0;
    auto take = [&](int i) {
        if (ranks[i] > limit.floor || (ranks[i] == limit.floor && limit.ties-- > 0)) out[found++] = i;
    };
    int i = 0;
#if defined(__AVX512F__)
    for (; i < whole; i += 16) {
        unsigned mask = _mm512_cmpge_epi32_mask(_mm512_loadu_si512(ranks + i), _mm512_set1_epi32(limit.floor));
        for (; mask; mask &= mask - 1) take(i + __builtin_ctz(mask));
    }
#endif
    for (; i < n; i++) take(i);
}

}  // namespace ISA
