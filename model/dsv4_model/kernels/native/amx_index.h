// Index scores in tiles of integers: blocks of 32 keys in FP4 lie in a page as a tile's right side wants them.
#pragma once
#include "amx.h"
#include "index_query.h"

#if AMX
namespace ISA {

constexpr int TOGETHER = 8;  // heads of one tile; its sixteen rows are theirs for two groups of channels

// What score_pages multiplies by: for eight heads and 64 channels a tile whose row 8 g + h has a head's codes of one
// group, zero elsewhere, so that groups are summed up apart.
class IndexTiles {
  public:
    IndexTiles(const Model& m, const IndexQuery& query)
        : heads_(m.index_heads), channels_(m.index_dim), query_(query), depth_(channels_ / 64) {
        std::memset(codes_, 0, sizeof(int8_t) * 1024 * tiles());
        for (int h = 0; h < heads_; h++)
            for (int g = 0; g < channels_ / KEY_GROUP; g++) {
                int8_t* row = codes_ + tile(h / TOGETHER, g / 2) * 1024 + (g % 2 * TOGETHER + h % TOGETHER) * 64;
                std::memcpy(row + g % 2 * KEY_GROUP, query.codes + h * channels_ + g * KEY_GROUP, KEY_GROUP);
            }
    }
    static bool fits(const Model& m) {
        return m.key_storage == FP4 && m.index_dim % 64 == 0 && m.index_dim <= 64 * MOST_DEPTH && m.index_heads <= MOST_HEADS;
    }

    // Scores of one block of 32 keys.
    void score(const uint8_t* block, float* out) {
        const __m512i low = _mm512_set1_epi8(15);
        // The codes' doubled values.
        const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
        for (int quad = 0; quad < channels_ / 4; quad++) {
            const __m512i packed = _mm512_loadu_si512(block + quad * 64);
            int8_t* to = keys_ + quad / SIDE * 2048 + quad % SIDE * 64;
            _mm512_store_si512(to, _mm512_shuffle_epi8(table, _mm512_and_si512(packed, low)));
            _mm512_store_si512(to + 1024, _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(packed, 4), low)));
        }
        const uint8_t* exponents = block + KEYS * channels_ / 2;
        vf total[2] = {};
        for (int first = 0; first < heads_; first += TOGETHER) {
            vf dot[TOGETHER][2] = {};
            const int some = heads_ - first < TOGETHER ? heads_ - first : TOGETHER;
            for (int k = 0; k < depth_; k++) {
                settle(keys_);
                _tile_zero(0);
                _tile_zero(1);
                _tile_loadd(4, codes_ + tile(first / TOGETHER, k) * 1024, 64);
                _tile_loadd(6, keys_ + k * 2048, 64);
                _tile_loadd(7, keys_ + k * 2048 + 1024, 64);
                _tile_dpbssd(0, 4, 6);
                _tile_dpbssd(1, 4, 7);
                _tile_stored(0, products_[0], 64);
                _tile_stored(1, products_[1], 64);
                for (int g = 0; g < 2; g++)
                    for (int half = 0; half < 2; half++) {
                        const uint8_t* e = exponents + (2 * k + g) * KEYS + 16 * half;
                        const vf scale = bits(__builtin_convertvector(*reinterpret_cast<const v16u8*>(e), vi) << 23);
                        for (int h = 0; h < some; h++) {
                            const vi sum = load(products_[half] + (g * TOGETHER + h) * SIDE);
                            const float qs = query_.scales[(first + h) * (channels_ / KEY_GROUP) + 2 * k + g];
                            dot[h][half] += __builtin_convertvector(sum, vf) * (scale * qs);
                        }
                    }
            }
            for (int h = 0; h < some; h++)
                for (int half = 0; half < 2; half++)
                    total[half] += max(dot[h][half], vf{}) * query_.weights[first + h];
        }
        store(out, total[0]);
        store(out + 16, total[1]);
    }

  private:
    static constexpr int MOST_DEPTH = 4, MOST_HEADS = 64;
    int tiles() const { return (heads_ + TOGETHER - 1) / TOGETHER * depth_; }
    int tile(int bundle, int k) const { return bundle * depth_ + k; }
    alignas(64) int8_t codes_[MOST_HEADS / TOGETHER * MOST_DEPTH * 1024];
    alignas(64) int8_t keys_[MOST_DEPTH * 2048];
    alignas(64) int32_t products_[2][SIDE * SIDE];
    int heads_, channels_;
    const IndexQuery& query_;
    int depth_;
    TileRegisters registers_;
};

}  // namespace ISA
#endif
