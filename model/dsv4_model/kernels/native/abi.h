// The plain C boundary: layouts that `structures.py` mirrors field by field. All pointers belong to the caller.
#pragma once
#include <cstdint>

#define DSV4_ABI 1

enum Storage : int32_t { FP32 = 0, BF16 = 1, FP8 = 2, FP4 = 3 };

// Why a call failed. Anything but OK leaves the caches that it was given in an undefined state.
enum Status : int { OK = 0, NO_MEMORY = 1, BAD_ARGUMENT = 2, EXPERTS_FAILED = 3 };

extern "C" {

// A weight matrix [rows, columns]; `scale` holds ue8m0 exponents (FP8: a 128 x 128 block, FP4: 32 of a row).
struct Matrix {
    const void* data;
    const uint8_t* scale;
    int32_t kind, rows, columns, scale_columns;
};

struct Mixing {
    const float *fn, *base, *scale;
};

struct Compressor {
    Matrix wkv, wgate;
    const float *ape, *norm;
};

struct Layer {
    int32_t ratio, entries_per_page, slots, number;
    // Byte offsets in the rings of a sequence, and in a page.
    int64_t window, values, gates, key_values, key_gates, entries, keys;
    const float *attn_norm, *ffn_norm, *sink, *q_norm, *kv_norm;
    Mixing attn_mixing, ffn_mixing;
    Matrix wq_a, wq_b, wkv, wo_a, wo_b;
    Compressor compressor;
    Matrix indexer_wq_b, indexer_weights;
    Compressor indexer_compressor;
    Matrix gate;
    const float* gate_bias;   // absent where experts are chosen by token
    const int64_t* tid2eid;   // [vocab, chosen], or absent
    Matrix shared[3];         // w1, w2, w3
    const Matrix* experts;    // [experts][3], or absent where `resolve` brings them
};

// Asked once a layer and group of tokens for experts that are not all in memory: fills [count][3].
typedef int (*Resolve)(void* user, int32_t layer, const int32_t* experts, int32_t count, Matrix* out);

struct Model {
    int32_t vocab, hidden, layers, heads, head_dim, rotary, q_lora, groups, o_lora, inner, experts, chosen;
    int32_t window, index_heads, index_dim, index_topk, streams, sinkhorn, row_storage, key_storage;
    int32_t row_bytes, row_groups, rounds, has_mtp;
    float eps, hc_eps, route_scale, limit;
    const float *frequencies_plain, *frequencies_compressed;  // [rotary / 2] each
    Matrix embed, head;
    const float* norm;
    Mixing head_mixing;
    const Layer* layer;  // [layers], then the MTP block's
    Matrix e_proj, h_proj;
    const float *enorm, *hnorm, *mtp_norm;
    Mixing mtp_mixing;
    Resolve resolve;
    void* resolve_user;
};

// New tokens of one sequence. `logits`, `streams`: rows wanted, 0 none, 1 of the last token, 2 of all.
struct Chunk {
    uint8_t* rings;
    uint8_t* const* pages;
    const int32_t* ids;
    int64_t position;
    int32_t count, logits, streams, reserved;
};

struct Engine;  // threads and scratch memory

#pragma GCC visibility push(default)
int dsv4_abi();
const char* dsv4_isa();
Engine* dsv4_open(int threads, const char* isa);
void dsv4_close(Engine*);
int dsv4_forward(Engine*, const Model*, const Chunk*, int chunks, float* logits, float* streams,
                 int64_t* expert_counts);
int dsv4_draft(Engine*, const Model*, const Chunk*, int chunks, const float* streams_in, float* logits,
               float* streams_out);

// Single operations, for parity tests and for measuring.
int dsv4_matmul(Engine*, const Matrix*, const float* x, int rows, float* y);
int dsv4_mix(Engine*, const Model*, const Mixing*, const float* streams, int rows, float* x, float* post,
             float* comb);
int dsv4_unmix(Engine*, const Model*, const float* y, const float* post, const float* comb, int rows,
               float* streams);
int dsv4_moe(Engine*, const Model*, const Layer*, const float* x, const int32_t* ids, int rows, float* y);
int dsv4_attend(Engine*, const Model*, const Layer*, const Chunk*, const float* x, float* y);
int dsv4_index(Engine*, const Model*, const Layer*, const uint8_t* const* pages, const float* q,
               const float* weights, int keys, float* scores, int32_t* chosen);
int dsv4_encode_rows(Engine*, const Model*, const float* rows, int count, uint8_t* out);
int dsv4_decode_rows(Engine*, const Model*, const uint8_t* rows, int count, float* out);

#pragma GCC visibility pop
}  // extern "C"
