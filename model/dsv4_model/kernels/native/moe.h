// Mixture of experts (section 2.6): routing, clamped SwiGLU experts, the shared expert.
#pragma once
#include "run.h"

namespace ISA {

struct ExpertsFailed {};

// Which experts each token takes and how much of each: ids and weights [rows][chosen].
static void route(Run& run, const Layer& layer, const float* x, const int32_t* ids, int rows, int32_t* experts,
                  float* weights) {
    const Model& m = run.model;
    float* scores = run.floats(rows, m.experts);
    Product product{&layer.gate, 0, m.experts, x, m.hidden, rows, scores, m.experts};
    run.multiply_all(&product, 1);
    run.each(rows, 4, [&](int t, int) {
        float* s = scores + static_cast<int64_t>(t) * m.experts;
        for (int e = 0; e < m.experts; e++) s[e] = std::sqrt(s[e] > 20.0f ? s[e] : std::log1p(std::exp(s[e])));
        int32_t* mine = experts + t * m.chosen;
        if (layer.tid2eid) {
            for (int k = 0; k < m.chosen; k++)
                mine[k] = static_cast<int32_t>(layer.tid2eid[static_cast<int64_t>(ids[t]) * m.chosen + k]);
        } else {
            for (int k = 0; k < m.chosen; k++) {
                int best = -1;
                float top = 0;
                for (int e = 0; e < m.experts; e++) {
                    bool taken = false;
                    for (int j = 0; j < k; j++) taken |= mine[j] == e;
                    float biased = s[e] + layer.gate_bias[e];
                    if (!taken && (best < 0 || biased > top)) {
                        best = e;
                        top = biased;
                    }
                }
                mine[k] = best;
            }
        }
        float total = 0;
        for (int k = 0; k < m.chosen; k++) total += s[mine[k]];
        for (int k = 0; k < m.chosen; k++) weights[t * m.chosen + k] = s[mine[k]] / total * m.route_scale;
    });
    if (run.expert_counts)
        for (int i = 0; i < rows * m.chosen; i++)
            run.expert_counts[static_cast<int64_t>(layer.number) * m.experts + experts[i]]++;
}

// The tokens of one expert: rows of x, and what their weight and place in the result are.
struct Share {
    const Matrix* w;  // w1, w2, w3
    int first, count;  // of the sorted list
};

// z = silu(min(gate, limit)) * clamp(value) * weight, in place of gate.
INLINE void activate(const Model& m, float* gate, const float* value, float weight) {
    const int n = m.inner;
    const vf high = splat(m.limit > 0 ? m.limit : 1e30f), low = -high;
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        vf g = load(gate + i), v = load(value + i);
        vf broken = (g - g) + (v - v);  // NaN must survive the clamps
        g = min(g, high);
        v = min(max(v, low), high);
        store(gate + i, g * sigmoid(g) * v * weight + broken);
    }
    for (; i < n; i++) {
        float g = m.limit > 0 && gate[i] > m.limit ? m.limit : gate[i], v = value[i];
        if (m.limit > 0) v = v > m.limit ? m.limit : v < -m.limit ? -m.limit : v;
        gate[i] = g / (1.0f + std::exp(-g)) * v * weight;
    }
    if (m.rounds) round_fp8(gate, n, 128);
}

// y [rows, hidden] from x; ids are the tokens, for hash routing.
static void moe(Run& run, const Layer& layer, const float* x, const int32_t* ids, int rows, float* y) {
    const Model& m = run.model;
    const int chosen = m.chosen, pairs = rows * chosen, d = m.hidden, inner = m.inner;
    int32_t* experts = run.arena().take<int32_t>(pairs);
    float* weights = run.floats(rows, chosen);
    route(run, layer, x, ids, rows, experts, weights);
    const float* xq = run.rounded(x, rows, d);

    // Sort the (token, slot) pairs by expert; the shared expert comes last, with every token.
    std::vector<int> start(m.experts + 1, 0);
    for (int i = 0; i < pairs; i++) start[experts[i] + 1]++;
    std::vector<int32_t> used;
    for (int e = 0; e < m.experts; e++) {
        if (start[e + 1]) used.push_back(e);
        start[e + 1] += start[e];
    }
    std::vector<int> fill(start.begin(), start.end() - 1), pair_at(pairs);
    for (int i = 0; i < pairs; i++) pair_at[fill[experts[i]]++] = i;
    const int total = pairs + rows;
    const bool single = rows == 1;
    float* in = const_cast<float*>(xq);
    if (!single) {
        in = run.floats(total, d);
        run.each(total, 8, [&](int i, int) {
            const int token = i < pairs ? pair_at[i] / chosen : i - pairs;
            std::memcpy(in + static_cast<int64_t>(i) * d, xq + static_cast<int64_t>(token) * d, d * sizeof(float));
        });
    }
    auto input = [&](int i) { return single ? in : in + static_cast<int64_t>(i) * d; };
    float *gate = run.floats(total, inner), *value = run.floats(total, inner), *out = run.floats(total, d);

    auto compute = [&](const Share* shares, int count) {
        std::vector<Product> products;
        for (int i = 0; i < count; i++) {
            const Share& s = shares[i];
            const int64_t row = static_cast<int64_t>(s.first) * inner;
            products.push_back({&s.w[0], 0, inner, input(s.first), d, s.count, gate + row, inner});
            products.push_back({&s.w[2], 0, inner, input(s.first), d, s.count, value + row, inner});
        }
        run.multiply_all(products.data(), static_cast<int>(products.size()));
        products.clear();
        for (int i = 0; i < count; i++) {
            const Share& s = shares[i];
            run.each(s.count, 2, [&](int j, int) {
                const int at = s.first + j;
                const float weight = at < pairs ? weights[pair_at[at]] : 1.0f;
                activate(m, gate + static_cast<int64_t>(at) * inner, value + static_cast<int64_t>(at) * inner, weight);
            });
            products.push_back({&s.w[1], 0, d, gate + static_cast<int64_t>(s.first) * inner, inner, s.count,
                                out + static_cast<int64_t>(s.first) * d, d});
        }
        run.multiply_all(products.data(), static_cast<int>(products.size()));
    };
    Share shared{layer.shared, pairs, rows};
    if (layer.experts) {
        std::vector<Share> shares;
        for (int32_t e : used) shares.push_back({layer.experts + 3 * e, start[e], start[e + 1] - start[e]});
        shares.push_back(shared);
        compute(shares.data(), static_cast<int>(shares.size()));
    } else {
        // What is not in memory is brought in groups, since a long chunk may need more than there is room for.
        compute(&shared, 1);
        const int most = std::max(chosen, 1);
        std::vector<Matrix> brought(3 * most);
        for (size_t i = 0; i < used.size(); i += most) {
            const int n = static_cast<int>(std::min<size_t>(most, used.size() - i));
            if (m.resolve(m.resolve_user, layer.number, used.data() + i, n, brought.data()) != 0) throw ExpertsFailed();
            std::vector<Share> shares;
            for (int j = 0; j < n; j++) {
                const int32_t e = used[i + j];
                shares.push_back({brought.data() + 3 * j, start[e], start[e + 1] - start[e]});
            }
            compute(shares.data(), n);
        }
    }
    // Where each pair's result lies; a token's sum is taken in the order of its slots, then the shared expert.
    std::vector<int> place(pairs);
    for (int i = 0; i < pairs; i++) place[pair_at[i]] = i;
    run.each(rows, 8, [&](int t, int) {
        float* sum = y + static_cast<int64_t>(t) * d;
        std::memcpy(sum, out + static_cast<int64_t>(pairs + t) * d, d * sizeof(float));
        for (int k = 0; k < chosen; k++) {
            const float* add = out + static_cast<int64_t>(place[t * chosen + k]) * d;
            for (int i = 0; i < d; i++) sum[i] += add[i];
        }
    });
}

}  // namespace ISA
