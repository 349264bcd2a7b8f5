// The indexer's query of one token.
#pragma once
#include "run.h"

namespace ISA {

// In the form that its key storage wants.
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

}  // namespace ISA
