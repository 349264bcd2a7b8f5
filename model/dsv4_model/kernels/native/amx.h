// Matrix products of bfloat16 tiles (AMX) that are as exact as fp32 ones: a float is the sum of three bfloat16 parts
// of 8 bits each. Weights in FP8, FP4 or BF16 and rows of quantised caches have one part only.
#pragma once
#include "abi.h"
#include "simd.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define AMX 1
#include <immintrin.h>

namespace ISA {

constexpr int PARTS = 3;
constexpr int SIDE = 16;                // rows of a tile
constexpr int STEP = 32;                // depth of one tile product
constexpr int TILE = SIDE * STEP;       // values of a tile, 1 KiB
constexpr int PACKED = PARTS * TILE;    // a block of 16 x 32 floats as its parts

INLINE int64_t blocks(int64_t n, int size) { return (n + size - 1) / size; }

// Memory that tiles are loaded from must have been written: compilers don't see that the loads read it.
INLINE void settle(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

// The tile registers of this thread, all 16 rows of 64 bytes: 0 to 3 add up results, 4 and 5 hold left sides, 6 and 7
// right ones. They are given back at the end, so that a sleeping thread's state stays small.
class TileRegisters {
  public:
    TileRegisters() {
        alignas(64) Layout layout;
        for (int i = 0; i < 8; i++) {
            layout.bytes[i] = 64;
            layout.rows[i] = SIDE;
        }
        settle(&layout);
        _tile_loadconfig(&layout);
    }
    ~TileRegisters() { _tile_release(); }
    TileRegisters(const TileRegisters&) = delete;

  private:
    struct Layout {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    };
};

INLINE __m512 widened(__m256i half) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); }

// The first n floats of sixteen, then zeros.
INLINE vf load_first(const float* p, int n) { return n >= 16 ? load(p) : n > 0 ? load_part(p, n) : vf{}; }

// 32 floats as parts of 32 bfloat16 each. Returns how many parts are not all zero, at least one.
INLINE int parts_of(vf low, vf high, __m512i out[PARTS]) {
    __m512 a = reinterpret_cast<__m512>(low), b = reinterpret_cast<__m512>(high);
    for (int p = 0; p < PARTS; p++) {
        out[p] = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
        if (p + 1 == PARTS) break;
        // The differences are exact.
        a = _mm512_sub_ps(a, widened(_mm512_castsi512_si256(out[p])));
        b = _mm512_sub_ps(b, widened(_mm512_extracti64x4_epi64(out[p], 1)));
    }
    return _mm512_test_epi32_mask(out[2], out[2]) ? 3 : _mm512_test_epi32_mask(out[1], out[1]) ? 2 : 1;
}

// Left side of a product: [blocks of 16 rows][blocks of 32 columns][PARTS][16][32], and how many parts are used.
struct Left {
    uint16_t* data;
    uint8_t* used;  // [blocks of rows][blocks of columns]
    int depth;      // blocks of columns
    static int64_t values(int64_t rows, int columns) { return blocks(rows, SIDE) * blocks(columns, STEP) * PACKED; }
    static int64_t flags(int64_t rows, int columns) { return blocks(rows, SIDE) * blocks(columns, STEP); }
};

// Fill one block of `rows` <= 16 rows.
static void split_rows(const float* x, int64_t ldx, int rows, int columns, const Left& left, int64_t block) {
    uint16_t* out = left.data + block * left.depth * PACKED;
    uint8_t* used = left.used + block * left.depth;
    for (int k = 0; k < left.depth; k++, out += PACKED) {
        const int rest = columns - k * STEP;
        int most = 1;
        for (int r = 0; r < SIDE; r++) {
            __m512i parts[PARTS] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
            if (r < rows) {
                const float* p = x + r * ldx + k * STEP;
                int n = parts_of(load_first(p, rest), load_first(p + 16, rest - 16), parts);
                most = n > most ? n : most;
            }
            for (int p = 0; p < PARTS; p++) _mm512_store_si512(out + p * TILE + r * STEP, parts[p]);
        }
        used[k] = static_cast<uint8_t>(most);
    }
}

// Rows and columns of 16 x 16 values of 32 bits change places.
INLINE void transpose(__m512i v[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + 2 + j]);
            v[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + 2 + j]);
        }
    // v[4 g + c] holds column c of each quarter for rows 4 g to 4 g + 3.
    for (int c = 0; c < 4; c++) {
        __m512i ab = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x88), cd = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x88);
        __m512i ef = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xDD), gh = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xDD);
        t[c] = _mm512_shuffle_i32x4(ab, cd, 0x88);
        t[8 + c] = _mm512_shuffle_i32x4(ab, cd, 0xDD);
        t[4 + c] = _mm512_shuffle_i32x4(ef, gh, 0x88);
        t[12 + c] = _mm512_shuffle_i32x4(ef, gh, 0xDD);
    }
    for (int i = 0; i < 16; i++) v[i] = t[i];
}

// Right side: [blocks of 16 columns of the result][blocks of 32 rows][parts][16 pairs of rows][16 columns][2].
struct Right {
    uint16_t* data;
    int64_t next;  // values from one block of columns to the next
    int parts;     // that each block has room for
    int used;
};

// One block from 16 rows that lie `ld` apart and become columns; what is beyond `rows` and `columns` <= 32 is zero. Only
// the first `wanted` parts are kept. Returns how many are used.
INLINE int pack_rows(const float* x, int64_t ld, int rows, int columns, int wanted, uint16_t* out) {
    __m512i parts[PARTS][SIDE];
    int used = 1;
    for (int r = 0; r < SIDE; r++) {
        __m512i mine[PARTS] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
        int n = r < rows ? parts_of(load_first(x + r * ld, columns), load_first(x + r * ld + 16, columns - 16), mine) : 1;
        used = n > used ? n : used;
        for (int p = 0; p < PARTS; p++) parts[p][r] = mine[p];
    }
    for (int p = 0; p < wanted; p++) {
        transpose(parts[p]);
        for (int i = 0; i < SIDE; i++) _mm512_store_si512(out + p * TILE + i * STEP, parts[p][i]);
    }
    return used;
}

// The same from 32 rows whose 16 columns stay columns.
INLINE int pack_columns(const float* x, int64_t ld, int rows, int columns, int wanted, uint16_t* out) {
    int used = 1;
    for (int i = 0; i < SIDE; i++) {
        auto row = [&](int r) { return r < rows ? load_first(x + r * ld, columns) : vf{}; };
        __m512i parts[PARTS];
        int n = parts_of(row(2 * i), row(2 * i + 1), parts);
        used = n > used ? n : used;
        for (int p = 0; p < wanted; p++) {
            __m512i even = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(parts[p]));
            __m512i odd = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(parts[p], 1));
            _mm512_store_si512(out + p * TILE + i * STEP, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
    }
    return used;
}

template <int M, int N>
static void whole_tiles(const Left& left, int64_t block, const Right& right, int depth, float* c, int64_t ldc,
                        bool more) {
    const int64_t line = ldc * sizeof(float), a_next = static_cast<int64_t>(left.depth) * PACKED;
    const uint16_t *a = left.data + block * a_next, *b = right.data;
    const uint8_t* used = left.used + block * left.depth;
    settle(a);
    if (more) {
        _tile_loadd(0, c, line);
        if (N > 1) _tile_loadd(1, c + SIDE, line);
        if (M > 1) _tile_loadd(2, c + SIDE * ldc, line);
        if (M > 1 && N > 1) _tile_loadd(3, c + SIDE * ldc + SIDE, line);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int k = 0; k < depth; k++, a += PACKED, b += right.parts * TILE) {
        const int mine = M > 1 && used[left.depth + k] > used[k] ? used[left.depth + k] : used[k];
        for (int q = 0; q < right.used; q++) {
            const int parts = mine < PARTS - q ? mine : PARTS - q;
            _tile_loadd(6, b + q * TILE, 64);
            if (N > 1) _tile_loadd(7, b + right.next + q * TILE, 64);
            for (int p = 0; p < parts; p++) {
                _tile_loadd(4, a + p * TILE, 64);
                if (M > 1) _tile_loadd(5, a + a_next + p * TILE, 64);
                _tile_dpbf16ps(0, 4, 6);
                if (N > 1) _tile_dpbf16ps(1, 4, 7);
                if (M > 1) _tile_dpbf16ps(2, 5, 6);
                if (M > 1 && N > 1) _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, c, line);
    if (N > 1) _tile_stored(1, c + SIDE, line);
    if (M > 1) _tile_stored(2, c + SIDE * ldc, line);
    if (M > 1 && N > 1) _tile_stored(3, c + SIDE * ldc + SIDE, line);
}

// c [rows][columns], both at most 32, = left from its block `block` on times right over `depth` blocks, added to what is
// there if `more`. Products of parts that are below the last bit together are left out.
static void tile_product(int rows, int columns, const Left& left, int64_t block, const Right& right, int depth, float* c,
                         int64_t ldc, bool more) {
    auto product = [&](float* to, int64_t ld) {
        if (rows > SIDE && columns > SIDE) return whole_tiles<2, 2>(left, block, right, depth, to, ld, more);
        if (rows > SIDE) return whole_tiles<2, 1>(left, block, right, depth, to, ld, more);
        if (columns > SIDE) return whole_tiles<1, 2>(left, block, right, depth, to, ld, more);
        whole_tiles<1, 1>(left, block, right, depth, to, ld, more);
    };
    if (rows % SIDE == 0 && columns % SIDE == 0) return product(c, ldc);
    constexpr int EDGE = 2 * SIDE;
    alignas(64) float edge[EDGE * EDGE] = {};
    for (int r = 0; r < rows && more; r++) std::memcpy(edge + r * EDGE, c + r * ldc, columns * sizeof(float));
    product(edge, EDGE);
    for (int r = 0; r < rows; r++) std::memcpy(c + r * ldc, edge + r * EDGE, columns * sizeof(float));
}

}  // namespace ISA
#else

namespace ISA {

struct TileRegisters {};  // there are none to hold

}  // namespace ISA
#endif
