// Sixteen floats at a time in the compiler's own vector types, so that one source serves every instruction set.
// Included once for each; everything lives in namespace ISA.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ISA {

typedef float vf __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(64), aligned(4), may_alias));
typedef float v8f __attribute__((vector_size(32), aligned(4), may_alias));
typedef float v4f __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint16_t v16u16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint8_t v16u8 __attribute__((vector_size(16), aligned(1), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vf load(const float* p) { return *reinterpret_cast<const vf*>(p); }
INLINE vi load(const int32_t* p) { return *reinterpret_cast<const vi*>(p); }
INLINE void store(int32_t* p, vi v) { *reinterpret_cast<vi*>(p) = v; }
INLINE void store(float* p, vf v) { *reinterpret_cast<vf*>(p) = v; }
INLINE vf splat(float x) { return vf{} + x; }
INLINE vf bits(vi v) { return reinterpret_cast<vf>(v); }
INLINE vi bits(vf v) { return reinterpret_cast<vi>(v); }
INLINE vf select(vi mask, vf a, vf b) { return bits((mask & bits(a)) | (~mask & bits(b))); }
INLINE vf max(vf a, vf b) { return select(a > b, a, b); }
INLINE vf min(vf a, vf b) { return select(a < b, a, b); }

// The first n < 16 floats, then zeros.
INLINE vf load_part(const float* p, int n) {
    float buffer[16] = {};
    for (int i = 0; i < n; i++) buffer[i] = p[i];
    return load(buffer);
}
INLINE void store_part(float* p, vf v, int n) {
    float buffer[16];
    store(buffer, v);
    for (int i = 0; i < n; i++) p[i] = buffer[i];
}

INLINE v4f fold(vf v) {
    v8f half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
}
INLINE float sum(vf v) {
    v4f q = fold(v);
    return (q[0] + q[2]) + (q[1] + q[3]);
}
INLINE float highest(vf v) {
    v = max(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = max(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = max(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    v = max(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
    return v[0];
}
// The four sums of four vectors; each as `sum` gives it.
INLINE v4f sums(vf a, vf b, vf c, vf d) {
    v4f x = fold(a), y = fold(b), z = fold(c), w = fold(d);
    v4f xy0 = __builtin_shufflevector(x, y, 0, 4, 1, 5), xy1 = __builtin_shufflevector(x, y, 2, 6, 3, 7);
    v4f zw0 = __builtin_shufflevector(z, w, 0, 4, 1, 5), zw1 = __builtin_shufflevector(z, w, 2, 6, 3, 7);
    v4f xy = xy0 + xy1, zw = zw0 + zw1;  // x0+x2, y0+y2, x1+x3, y1+y3
    return __builtin_shufflevector(xy, zw, 0, 1, 4, 5) + __builtin_shufflevector(xy, zw, 2, 3, 6, 7);
}

// e^x to about one unit in the last place; 0 below -87.3, so that masked scores vanish. NaN stays NaN.
INLINE vf exp(vf x) {
    const float magic = 12582912.0f;  // adding it rounds to an integer in the low mantissa bits
    vf clamped = min(max(x, splat(-87.33f)), splat(88.0f));
    vf shifted = clamped * 1.44269504f + magic;
    vf n = shifted - magic;
    vf r = clamped - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vf scaled = p * bits((bits(shifted) << 23) + 0x3F800000);
    return select(x < splat(-87.33f), vf{}, scaled) + (x - x);
}
INLINE vf sigmoid(vf x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

INLINE float pow2ceil(float a) {
    uint32_t b;
    std::memcpy(&b, &a, 4);
    b = ((b >> 23) + ((b & 0x7FFFFF) != 0)) << 23;
    std::memcpy(&a, &b, 4);
    return a;
}
INLINE float from_exponent(uint8_t e) {
    uint32_t b = static_cast<uint32_t>(e) << 23;
    float f;
    std::memcpy(&f, &b, 4);
    return f;
}
// The same from memory: a vector full of it then costs no shuffle. Tables are constants, since code that fills them while
// the library is loaded would run on processors without this instruction set.
struct Powers {
    float value[256] = {};
    constexpr Powers() {
        float power = 1.17549435e-38f;
        for (int i = 1; i < 254; i++, power *= 2) value[i] = power;
        value[254] = power;
        value[255] = __builtin_inff();
    }
};
constexpr Powers powers;

INLINE uint8_t exponent(float power) {
    uint32_t b;
    std::memcpy(&b, &power, 4);
    return static_cast<uint8_t>(b >> 23);
}

INLINE vf from_bf16(const uint16_t* p) {
    vi wide = __builtin_convertvector(*reinterpret_cast<const v16u16*>(p), vi);
    return bits(wide << 16);
}
INLINE float from_bf16(uint16_t h) {
    uint32_t b = static_cast<uint32_t>(h) << 16;
    float f;
    std::memcpy(&f, &b, 4);
    return f;
}
INLINE uint16_t to_bf16(float f) {
    uint32_t b;
    std::memcpy(&b, &f, 4);
    return static_cast<uint16_t>((b + 0x7FFF + ((b >> 16) & 1)) >> 16);
}

// e4m3 by way of fp16, whose subnormals convert at full speed: the value comes out 2^8 too small.
constexpr float E4M3_FIX = 256.0f;
struct E4M3Table {
    float value[256] = {};
    constexpr E4M3Table() {
        float power = 1.0f / 131072;  // of the subnormals' last bit
        for (int exponent = 0; exponent < 16; exponent++) {
            for (int mantissa = 0; mantissa < 8; mantissa++) {
                const int code = exponent * 8 + mantissa;
                value[code] = static_cast<float>(exponent ? 8 + mantissa : mantissa) * power;
                value[code + 128] = -value[code];
            }
            if (exponent) power *= 2;
        }
    }
};
constexpr E4M3Table e4m3_table;

INLINE vf from_e4m3(const uint8_t* p) {
#if defined(__AVX512F__) && defined(__AVX512BW__)
    // Sign extension puts the sign where fp16 has it; the copy that it leaves in the exponent is masked out.
    __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<short>(0xBFFF)));
    return reinterpret_cast<vf>(_mm512_cvtph_ps(half));
#elif defined(__F16C__)
    __m128i wide[2];
    __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    wide[0] = _mm_cvtepu8_epi16(raw);
    wide[1] = _mm_cvtepu8_epi16(_mm_srli_si128(raw, 8));
    float out[16];
    for (int i = 0; i < 2; i++) {
        __m128i sign = _mm_slli_epi16(_mm_and_si128(wide[i], _mm_set1_epi16(0x80)), 8);
        __m128i rest = _mm_slli_epi16(_mm_and_si128(wide[i], _mm_set1_epi16(0x7F)), 7);
        _mm256_storeu_ps(out + 8 * i, _mm256_cvtph_ps(_mm_or_si128(sign, rest)));
    }
    return load(out);
#else
    float out[16];
    for (int i = 0; i < 16; i++) out[i] = e4m3_table.value[p[i]];
    return load(out);
#endif
}
#if defined(__AVX512F__) && defined(__AVX512BW__)
#define PAIRED_E4M3 1
// Codes in the bytes of 16-bit lanes as fp16: those in the upper bytes, and those in the lower ones.
INLINE __m256i upper_e4m3(__m256i codes) {
    return _mm256_and_si256(_mm256_srai_epi16(codes, 1), _mm256_set1_epi16(static_cast<short>(0xBF80)));
}
INLINE __m256i lower_e4m3(__m256i codes) { return upper_e4m3(_mm256_slli_epi16(codes, 8)); }
INLINE __m512i upper_e4m3(__m512i codes) {
    return _mm512_and_si512(_mm512_srai_epi16(codes, 1), _mm512_set1_epi16(static_cast<short>(0xBF80)));
}
INLINE __m512i lower_e4m3(__m512i codes) { return upper_e4m3(_mm512_slli_epi16(codes, 8)); }
INLINE vf from_half(__m256i half) { return reinterpret_cast<vf>(_mm512_cvtph_ps(half)); }

// 32 codes: those with even numbers and those with odd ones.
INLINE void from_e4m3(const uint8_t* p, vf& even, vf& odd) {
    __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    even = from_half(lower_e4m3(codes));
    odd = from_half(upper_e4m3(codes));
}
// 64 codes, as two times 32.
INLINE void from_e4m3(const uint8_t* p, vf even[2], vf odd[2]) {
    __m512i codes = _mm512_loadu_si512(p), low = lower_e4m3(codes), high = upper_e4m3(codes);
    even[0] = from_half(_mm512_castsi512_si256(low));
    odd[0] = from_half(_mm512_castsi512_si256(high));
    even[1] = from_half(_mm512_extracti64x4_epi64(low, 1));
    odd[1] = from_half(_mm512_extracti64x4_epi64(high, 1));
}
#endif
INLINE float e4m3(uint8_t code) { return e4m3_table.value[code] * E4M3_FIX; }

// |x| <= 448, rounded to nearest even.
INLINE uint8_t to_e4m3(float x) {
    uint32_t b;
    std::memcpy(&b, &x, 4);
    uint32_t sign = (b >> 24) & 0x80, magnitude = b & 0x7FFFFFFF;
    uint32_t normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120u << 3);
    uint32_t tiny = static_cast<uint32_t>(std::nearbyintf(std::fabs(x) * 512.0f));
    return static_cast<uint8_t>(sign | (magnitude < 0x3C800000 ? tiny : normal));
}

constexpr float FP4_VALUES[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

// |x| <= 6, rounded to nearest even.
INLINE uint8_t to_e2m1(float x) {
    float a = std::fabs(x);
    float code = a <= 2 ? std::nearbyintf(a * 2) : a <= 4 ? std::nearbyintf(a) + 2 : std::nearbyintf(a / 2) + 4;
    return static_cast<uint8_t>(static_cast<int>(code) | (std::signbit(x) ? 8 : 0));
}

// 32 packed values times a power of two: those in low nibbles (0, 2, .. 30) and in high ones (1, 3, .. 31).
INLINE void from_e2m1(const uint8_t* p, float scale, vf& even, vf& odd) {
#if defined(__AVX512F__)
    __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    __m512 table = _mm512_mul_ps(_mm512_loadu_ps(FP4_VALUES), _mm512_set1_ps(scale));
    even = reinterpret_cast<vf>(_mm512_permutexvar_ps(wide, table));
    odd = reinterpret_cast<vf>(_mm512_permutexvar_ps(_mm512_srli_epi32(wide, 4), table));
#else
    float a[16], b[16];
    for (int i = 0; i < 16; i++) {
        a[i] = FP4_VALUES[p[i] & 15];
        b[i] = FP4_VALUES[p[i] >> 4];
    }
    even = load(a) * scale;
    odd = load(b) * scale;
#endif
}

}  // namespace ISA
