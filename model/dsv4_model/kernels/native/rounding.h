// Storage of cache rows and index keys, and the rounding of the quantisation-aware training (section 2.8).
#pragma once
#include "abi.h"
#include "amx.h"
#include "simd.h"

namespace ISA {

constexpr int KV_GROUP = 64, KEY_GROUP = 32, KEYS = 32;

// FP8 round trip in groups along n channels, in place.
static void round_fp8(float* x, int n, int group) {
    for (int start = 0; start < n; start += group) {
        int end = start + group < n ? start + group : n;
        float amax = 1e-4f;
        for (int i = start; i < end; i++) amax = std::fabs(x[i]) > amax ? std::fabs(x[i]) : amax;
        float scale = pow2ceil(amax * (1.0f / 448.0f)), inverse = 1.0f / scale;
        for (int i = start; i < end; i++) {
            float scaled = x[i] * inverse;
            scaled = scaled > 448.0f ? 448.0f : scaled < -448.0f ? -448.0f : scaled;
            x[i] = e4m3(to_e4m3(scaled)) * scale;
        }
    }
}

// FP4 codes in groups of 32 along n channels: codes one a byte, one exponent a group.
static void encode_fp4(const float* x, int n, uint8_t* codes, uint8_t* exponents) {
    for (int start = 0; start < n; start += KEY_GROUP) {
        float amax = 6.0f * 1.17549435e-38f;
        for (int i = start; i < start + KEY_GROUP; i++) amax = std::fabs(x[i]) > amax ? std::fabs(x[i]) : amax;
        float scale = pow2ceil(amax / 6.0f);
        exponents[start / KEY_GROUP] = exponent(scale);
        for (int i = start; i < start + KEY_GROUP; i++) {
            float scaled = x[i] / scale;
            codes[i] = to_e2m1(scaled > 6.0f ? 6.0f : scaled < -6.0f ? -6.0f : scaled);
        }
    }
}

// Walsh-Hadamard in Sylvester order, scaled by n^-1/2, in place; n a power of two.
static void hadamard(float* x, int n) {
    for (int step = 1; step < n; step *= 2)
        for (int i = 0; i < n; i += 2 * step)
            for (int j = i; j < i + step; j++) {
                float a = x[j], b = x[j + step];
                x[j] = a + b;
                x[j + step] = a - b;
            }
    float scale = 1.0f / std::sqrt(static_cast<float>(n));
    for (int i = 0; i < n; i++) x[i] *= scale;
}

// One row of the cache to its stored bytes.
static void encode_row(const Model& m, const float* x, uint8_t* out) {
    const int size = m.head_dim;
    if (m.row_storage == FP32) {
        std::memcpy(out, x, size * sizeof(float));
        return;
    }
    if (m.row_storage == BF16) {
        auto p = reinterpret_cast<uint16_t*>(out);
        for (int i = 0; i < size; i++) p[i] = to_bf16(x[i]);
        return;
    }
    const int plain = size - m.rotary;
    auto rotary = reinterpret_cast<uint16_t*>(out + plain);
    uint8_t* scales = out + plain + 2 * m.rotary;
    for (int group = 0; group < m.row_groups; group++) {
        int start = group * KV_GROUP, end = start + KV_GROUP < plain ? start + KV_GROUP : plain;
        float amax = 1e-4f;
        for (int i = start; i < end; i++) amax = std::fabs(x[i]) > amax ? std::fabs(x[i]) : amax;
        float scale = pow2ceil(amax * (1.0f / 448.0f)), inverse = 1.0f / scale;
        scales[group] = exponent(scale);
        for (int i = start; i < end; i++) {
            float scaled = x[i] * inverse;
            out[i] = to_e4m3(scaled > 448.0f ? 448.0f : scaled < -448.0f ? -448.0f : scaled);
        }
    }
    for (int i = 0; i < m.rotary; i++) rotary[i] = to_bf16(x[plain + i]);
    // Padding must be nobody's leftovers: rows are written to disk as they are.
    const int used = plain + 2 * m.rotary + m.row_groups;
    std::memset(out + used, 0, m.row_bytes - used);
}

// The inverse.
INLINE void decode_row(const Model& m, const uint8_t* in, float* x) {
    const int size = m.head_dim;
    if (m.row_storage == FP32) {
        std::memcpy(x, in, size * sizeof(float));
        return;
    }
    auto halves = [&](const uint16_t* p, float* out, int n) {
        int i = 0;
        for (; i + 16 <= n; i += 16) store(out + i, from_bf16(p + i));
        for (; i < n; i++) out[i] = from_bf16(p[i]);
    };
    if (m.row_storage == BF16) return halves(reinterpret_cast<const uint16_t*>(in), x, size);
    const int plain = size - m.rotary;
    const uint8_t* scales = in + plain + 2 * m.rotary;
    for (int group = 0; group < m.row_groups; group++) {
        int i = group * KV_GROUP, end = i + KV_GROUP < plain ? i + KV_GROUP : plain;
        float scale = from_exponent(scales[group]);
        if (end - i == KV_GROUP) {
            for (int j = 0; j < KV_GROUP; j += 16) store(x + i + j, from_e4m3(in + i + j) * (scale * E4M3_FIX));
            continue;
        }
        for (; i + 16 <= end; i += 16) store(x + i, from_e4m3(in + i) * (scale * E4M3_FIX));
        for (; i < end; i++) x[i] = e4m3(in[i]) * scale;
    }
    halves(reinterpret_cast<const uint16_t*>(in + plain), x + plain, m.rotary);
}

#if AMX
// The same as bfloat16, which loses nothing of a row that isn't stored in fp32.
INLINE void decode_row(const Model& m, const uint8_t* in, uint16_t* x) {
    if (m.row_storage == BF16) {
        std::memcpy(x, in, m.head_dim * sizeof(uint16_t));
        return;
    }
    const int plain = m.head_dim - m.rotary;
    const uint8_t* scales = in + plain + 2 * m.rotary;
    int i = 0;
    for (; i + 32 <= plain; i += 32) {
        const float scale = from_exponent(scales[i / KV_GROUP]) * E4M3_FIX;
        const vf low = from_e4m3(in + i) * scale, high = from_e4m3(in + i + 16) * scale;
        const __m512bh both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low));
        _mm512_storeu_si512(x + i, reinterpret_cast<__m512i>(both));
    }
    for (; i < plain; i++) x[i] = to_bf16(e4m3(in[i]) * from_exponent(scales[i / KV_GROUP]));
    std::memcpy(x + plain, in + plain, m.rotary * sizeof(uint16_t));
}
#endif

// One index key into slot `slot` of a page's block of 32; `x` has taken the Hadamard where the storage is coarse.
static void encode_key(const Model& m, const float* x, int slot, uint8_t* block) {
    const int n = m.index_dim;
    switch (m.key_storage) {
        case FP32: {
            auto p = reinterpret_cast<float*>(block);
            for (int i = 0; i < n; i++) p[i * KEYS + slot] = x[i];
            return;
        }
        case BF16: {
            auto p = reinterpret_cast<uint16_t*>(block);
            for (int i = 0; i < n; i++) p[i * KEYS + slot] = to_bf16(x[i]);
            return;
        }
        case FP8: {
            float amax = 1e-4f;
            for (int i = 0; i < n; i++) amax = std::fabs(x[i]) > amax ? std::fabs(x[i]) : amax;
            float scale = pow2ceil(amax * (1.0f / 448.0f)), inverse = 1.0f / scale;
            for (int i = 0; i < n; i++) {
                float scaled = x[i] * inverse;
                block[i * KEYS + slot] = to_e4m3(scaled > 448.0f ? 448.0f : scaled < -448.0f ? -448.0f : scaled);
            }
            std::memcpy(block + n * KEYS + slot * sizeof(float), &scale, sizeof(float));
            return;
        }
        default: {
            uint8_t codes[1024], exponents[32];
            encode_fp4(x, n, codes, exponents);
            const int shift = slot < 16 ? 0 : 4, lane = slot & 15;
            for (int i = 0; i < n; i++) {
                uint8_t& byte = block[(i / 4) * 64 + lane * 4 + i % 4];
                byte = static_cast<uint8_t>((byte & ~(15 << shift)) | (codes[i] << shift));
            }
            for (int g = 0; g < n / KEY_GROUP; g++) block[KEYS * n / 2 + g * KEYS + slot] = exponents[g];
        }
    }
}

// A block of 32 keys as fp32 [channels][32].
static void decode_keys(const Model& m, const uint8_t* block, float* out) {
    const int n = m.index_dim;
    switch (m.key_storage) {
        case FP32: std::memcpy(out, block, sizeof(float) * n * KEYS); return;
        case BF16: {
            auto p = reinterpret_cast<const uint16_t*>(block);
            for (int i = 0; i < n * KEYS; i += 16) store(out + i, from_bf16(p + i));
            return;
        }
        case FP8: {
            float scales[KEYS];
            std::memcpy(scales, block + n * KEYS, sizeof scales);
            for (int i = 0; i < n; i++)
                for (int half = 0; half < KEYS; half += 16)
                    store(out + i * KEYS + half,
                          from_e4m3(block + i * KEYS + half) * load(scales + half) * E4M3_FIX);
            return;
        }
        default: {
            const uint8_t* exponents = block + KEYS * n / 2;
            for (int i = 0; i < n; i++)
                for (int slot = 0; slot < KEYS; slot++) {
                    uint8_t byte = block[(i / 4) * 64 + (slot & 15) * 4 + i % 4];
                    uint8_t code = slot < 16 ? byte & 15 : byte >> 4;
                    out[i * KEYS + slot] = FP4_VALUES[code] * from_exponent(exponents[(i / KEY_GROUP) * KEYS + slot]);
                }
        }
    }
}

}  // namespace ISA
