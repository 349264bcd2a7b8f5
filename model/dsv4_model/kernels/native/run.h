// What the parts of one forward pass share: threads, scratch memory, the tokens and their rotary angles.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "abi.h"
#include "threads.h"

#include "matmul.h"
#include "rounding.h"
#include "simd.h"

namespace ISA {

struct Token {
    int chunk, index;  // number in its chunk
    int32_t id;
    int64_t position;
};

// Cosines and sines of one position, [rotary / 2] each.
static void angles_of(const float* frequencies, int pairs, int64_t position, float* cos, float* sin) {
    for (int i = 0; i < pairs; i++) {
        // The product is rounded to fp32 first, as the reference does.
        float angle = static_cast<float>(position) * frequencies[i];
        cos[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
        sin[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
}

// Rotate interleaved pairs in place; direction -1 is the inverse.
INLINE void rotate(float* x, int pairs, const float* cos, const float* sin, float direction) {
    for (int i = 0; i < pairs; i++) {
        float even = x[2 * i], odd = x[2 * i + 1], s = direction * sin[i];
        x[2 * i] = even * cos[i] - odd * s;
        x[2 * i + 1] = even * s + odd * cos[i];
    }
}

// x / rms(x), times w where there is one.
static void normalize(const float* x, const float* w, int n, float eps, float* out) {
    vf squares{};
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        vf v = load(x + i);
        squares += v * v;
    }
    float total = sum(squares);
    for (; i < n; i++) total += x[i] * x[i];
    float scale = 1.0f / std::sqrt(total / static_cast<float>(n) + eps);
    for (i = 0; i + 16 <= n; i += 16) store(out + i, w ? load(x + i) * scale * load(w + i) : load(x + i) * scale);
    for (; i < n; i++) out[i] = w ? x[i] * scale * w[i] : x[i] * scale;
}

struct Run {
    Engine& engine;
    const Model& model;
    const Chunk* chunks;
    int count;   // chunks
    int tokens;  // of all chunks
    Token* token;
    float* angles[2];  // plain and compressed: [tokens][2][pairs]
    int64_t* expert_counts;

    Run(Engine& e, const Model& m, const Chunk* c, int n) : engine(e), model(m), chunks(c), count(n), tokens(0) {
        for (int i = 0; i < n; i++) tokens += c[i].count;
        token = arena().take<Token>(tokens);
        Token* t = token;
        for (int i = 0; i < n; i++)
            for (int j = 0; j < c[i].count; j++) *t++ = {i, j, c[i].ids[j], c[i].position + j};
        expert_counts = nullptr;
        const int pairs = m.rotary / 2;
        for (int kind = 0; kind < 2; kind++) {
            angles[kind] = arena().take<float>(static_cast<int64_t>(tokens) * m.rotary);
            const float* frequencies = kind ? m.frequencies_compressed : m.frequencies_plain;
            each(tokens, 16, [&](int i, int) {
                float* a = angles[kind] + static_cast<int64_t>(i) * m.rotary;
                angles_of(frequencies, pairs, token[i].position, a, a + pairs);
            });
        }
    }
    Pool& pool() { return engine.pool; }
    Arena& arena() { return engine.arena; }
    const float* cos(int i, int ratio) const { return angles[ratio > 0] + static_cast<int64_t>(i) * model.rotary; }
    const float* sin(int i, int ratio) const { return cos(i, ratio) + model.rotary / 2; }
    float* floats(int64_t rows, int64_t columns) { return arena().take<float>(rows * columns); }

    // f(i, thread) for i in 0 .. n - 1, `together` of them in a job.
    template <class F>
    void each(int n, int together, F&& f) {
        pool().run((n + together - 1) / together, [&](int job, int thread) {
            int end = (job + 1) * together < n ? (job + 1) * together : n;
            for (int i = job * together; i < end; i++) f(i, thread);
        });
    }
    void multiply_all(const Product* products, int n) { multiply(pool(), arena(), products, n); }
    Product product(const Matrix& w, const float* x, float* y) const {
        return {&w, 0, w.rows, x, w.columns, tokens, y, w.rows};
    }
    // x as a linear map of the quantisation-aware training sees it: itself, or a rounded copy.
    const float* rounded(const float* x, int rows, int columns) {
        if (!model.rounds) return x;
        float* copy = floats(rows, columns);
        each(rows, 4, [&](int i, int) {
            std::memcpy(copy + static_cast<int64_t>(i) * columns, x + static_cast<int64_t>(i) * columns,
                        columns * sizeof(float));
            round_fp8(copy + static_cast<int64_t>(i) * columns, columns, 128);
        });
        return copy;
    }
};

}  // namespace ISA
