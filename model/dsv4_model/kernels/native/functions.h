// The table of what each instruction set offers; `dispatch.cpp` picks one.
#pragma once
#include "abi.h"

struct Functions {
    const char* name;
    int (*forward)(Engine&, const Model&, const Chunk*, int, float*, float*, int64_t*);
    int (*draft)(Engine&, const Model&, const Chunk*, int, const float*, float*, float*);
    int (*matmul)(Engine&, const Matrix&, const float*, int, float*);
    int (*mix)(Engine&, const Model&, const Mixing&, const float*, int, float*, float*, float*);
    int (*unmix)(Engine&, const Model&, const float*, const float*, const float*, int, float*);
    int (*moe)(Engine&, const Model&, const Layer&, const float*, const int32_t*, int, float*);
    int (*attend)(Engine&, const Model&, const Layer&, const Chunk&, const float*, float*);
    int (*index)(Engine&, const Model&, const Layer&, const uint8_t* const*, const float*, const float*, int, float*,
                 int32_t*);
    void (*encode_rows)(const Model&, const float*, int, uint8_t*);
    void (*decode_rows)(const Model&, const uint8_t*, int, float*);
};
