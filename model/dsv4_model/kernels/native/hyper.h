// Hyper-connections (section 2.2): how the residual streams are mixed down to a site's input and back up.
#pragma once
#include "run.h"

namespace ISA {

constexpr int MOST_STREAMS = 8;

// The doubly stochastic maps of 16 tokens at once, one a lane: c [h * h] vectors, in place.
static void sinkhorn(vf* c, int h, int iterations, float eps) {
    for (int j = 0; j < h; j++) {
        vf top = c[j * h];
        for (int k = 1; k < h; k++) top = max(top, c[j * h + k]);
        vf total{};
        for (int k = 0; k < h; k++) total += c[j * h + k] = exp(c[j * h + k] - top);
        for (int k = 0; k < h; k++) c[j * h + k] = c[j * h + k] / total + eps;
    }
    auto columns = [&] {
        for (int k = 0; k < h; k++) {
            vf total = splat(eps);
            for (int j = 0; j < h; j++) total += c[j * h + k];
            vf inverse = splat(1.0f) / total;
            for (int j = 0; j < h; j++) c[j * h + k] *= inverse;
        }
    };
    columns();
    for (int i = 1; i < iterations; i++) {
        for (int j = 0; j < h; j++) {
            vf total = splat(eps);
            for (int k = 0; k < h; k++) total += c[j * h + k];
            vf inverse = splat(1.0f) / total;
            for (int k = 0; k < h; k++) c[j * h + k] *= inverse;
        }
        columns();
    }
}

// rms of the flattened streams of a token, as a factor.
INLINE float inverse_rms(const float* x, int64_t n, float eps) {
    vf squares[4] = {};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (int j = 0; j < 4; j++) {
            vf v = load(x + i + 16 * j);
            squares[j] += v * v;
        }
    float total = sum((squares[0] + squares[1]) + (squares[2] + squares[3]));
    for (; i < n; i++) total += x[i] * x[i];
    return 1.0f / std::sqrt(total / static_cast<float>(n) + eps);
}

// out = sum over streams of gate[s] * x[s].
INLINE void weigh(const float* x, const float* gate, int h, int d, float* out) {
    int i = 0;
    for (; i + 16 <= d; i += 16) {
        vf total{};
        for (int s = 0; s < h; s++) total += load(x + s * d + i) * gate[s];
        store(out + i, total);
    }
    for (; i < d; i++) {
        float total = 0;
        for (int s = 0; s < h; s++) total += x[s * d + i] * gate[s];
        out[i] = total;
    }
}

// Mix `rows` tokens' streams [h, d] down to x [d], normalised by `norm` if given; `post` [h] and `comb` [h, h] are
// kept for `unmix`.
static void mix(Run& run, const Mixing& site, const float* streams, int rows, const float* norm, float* x,
                float* post, float* comb) {
    const Model& m = run.model;
    const int h = m.streams, d = m.hidden, maps = (2 + h) * h;
    Matrix fn{site.fn, nullptr, FP32, maps, h * d, 0};
    float* raw = run.floats(rows, maps);
    Product product{&fn, 0, maps, streams, h * d, rows, raw, maps};
    run.multiply_all(&product, 1);
    run.pool().run((rows + 15) / 16, [&](int job, int) {
        const int first = job * 16, n = rows - first < 16 ? rows - first : 16;
        float lanes[(2 + MOST_STREAMS) * MOST_STREAMS][16];
        std::memset(lanes, 0, sizeof(float) * 16 * maps);
        for (int t = 0; t < n; t++) {
            float scale = inverse_rms(streams + static_cast<int64_t>(first + t) * h * d, h * d, m.eps);
            for (int i = 0; i < maps; i++) lanes[i][t] = raw[(first + t) * maps + i] * scale;
        }
        vf pre[MOST_STREAMS], up[MOST_STREAMS], c[MOST_STREAMS * MOST_STREAMS];
        for (int s = 0; s < h; s++) {
            pre[s] = sigmoid(load(lanes[s]) * site.scale[0] + site.base[s]) + m.hc_eps;
            up[s] = sigmoid(load(lanes[h + s]) * site.scale[1] + site.base[h + s]) * 2.0f;
        }
        for (int i = 0; i < h * h; i++) c[i] = load(lanes[2 * h + i]) * site.scale[2] + site.base[2 * h + i];
        sinkhorn(c, h, m.sinkhorn, m.hc_eps);
        for (int t = 0; t < n; t++) {
            const int64_t row = first + t;
            float gate[MOST_STREAMS];
            for (int s = 0; s < h; s++) {
                gate[s] = pre[s][t];
                post[row * h + s] = up[s][t];
            }
            for (int i = 0; i < h * h; i++) comb[row * h * h + i] = c[i][t];
            weigh(streams + row * h * d, gate, h, d, x + row * d);
            if (norm) normalize(x + row * d, norm, d, m.eps, x + row * d);
        }
    });
}

// streams[k] = post[k] * y + sum over j of comb[j, k] * streams[j], in place.
static void unmix(Run& run, const float* y, const float* post, const float* comb, int rows, float* streams) {
    const int h = run.model.streams, d = run.model.hidden;
    run.each(rows, 8, [&](int t, int) {
        float* x = streams + static_cast<int64_t>(t) * h * d;
        const float *p = post + t * h, *c = comb + t * h * h, *add = y + static_cast<int64_t>(t) * d;
        int i = 0;
        for (; i + 16 <= d; i += 16) {
            vf old[MOST_STREAMS], v = load(add + i);
            for (int j = 0; j < h; j++) old[j] = load(x + j * d + i);
            for (int k = 0; k < h; k++) {
                vf total = v * p[k];
                for (int j = 0; j < h; j++) total += old[j] * c[j * h + k];
                store(x + k * d + i, total);
            }
        }
        for (; i < d; i++) {
            float old[MOST_STREAMS];
            for (int j = 0; j < h; j++) old[j] = x[j * d + i];
            for (int k = 0; k < h; k++) {
                float total = add[i] * p[k];
                for (int j = 0; j < h; j++) total += old[j] * c[j * h + k];
                x[k * d + i] = total;
            }
        }
    });
}

// The final collapse: streams [rows, h, d] to normalised x [rows, d].
static void collapse(Run& run, const Mixing& site, const float* streams, int rows, const float* norm, float* x) {
    const Model& m = run.model;
    const int h = m.streams, d = m.hidden;
    Matrix fn{site.fn, nullptr, FP32, h, h * d, 0};
    float* raw = run.floats(rows, h);
    Product product{&fn, 0, h, streams, h * d, rows, raw, h};
    run.multiply_all(&product, 1);
    run.each(rows, 8, [&](int t, int) {
        const float* s = streams + static_cast<int64_t>(t) * h * d;
        float scale = inverse_rms(s, h * d, m.eps), gate[16] = {};
        for (int i = 0; i < h; i++) gate[i] = raw[t * h + i] * scale * site.scale[0] + site.base[i];
        store(gate, sigmoid(load(gate)) + m.hc_eps);
        weigh(s, gate, h, d, x + static_cast<int64_t>(t) * d);
        normalize(x + static_cast<int64_t>(t) * d, norm, d, m.eps, x + static_cast<int64_t>(t) * d);
    });
}

}  // namespace ISA
