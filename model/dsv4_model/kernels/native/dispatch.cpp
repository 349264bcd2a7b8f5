// The C boundary: picks the best instruction set that this processor has.
#include <cstring>
#if defined(DSV4_AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "functions.h"
#include "threads.h"

namespace generic {
extern const Functions functions;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Functions functions;
}
namespace avx512 {
extern const Functions functions;
}
#ifdef DSV4_AMX
namespace amx {
extern const Functions functions;
}
#endif
#endif

#if defined(DSV4_AMX) && defined(__linux__)
// Whether there are bfloat16 tiles, and the system lets this process use them (their state is large).
static bool tiles_allowed() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool tiles = (d >> 22 & 1) && (d >> 24 & 1) && (d >> 25 & 1);  // BF16, TILE, INT8
    if (!tiles || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return false;  // AVX512_BF16
    constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#else
static bool tiles_allowed() { return false; }
#endif

static const Functions* pick(const char* wanted) {
    const Functions* found[4];
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool wide =
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#ifdef DSV4_AMX
    if (wide && tiles_allowed()) found[n++] = &amx::functions;
#endif
    if (wide) found[n++] = &avx512::functions;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[n++] = &avx2::functions;
#endif
    found[n++] = &generic::functions;
    if (!wanted || !*wanted) return found[0];
    for (int i = 0; i < n; i++)
        if (!std::strcmp(found[i]->name, wanted)) return found[i];
    return nullptr;
}

extern "C" {

int dsv4_abi() { return DSV4_ABI; }
const char* dsv4_isa() { return pick(nullptr)->name; }

Engine* dsv4_open(int threads, const char* isa) {
    const Functions* functions = pick(isa);
    if (!functions || threads < 1) return nullptr;
    try {
        return new Engine(threads, functions);
    } catch (...) {
        return nullptr;
    }
}
void dsv4_close(Engine* e) { delete e; }

int dsv4_forward(Engine* e, const Model* m, const Chunk* chunks, int n, float* logits, float* streams,
                 int64_t* counts) {
    return e->functions->forward(*e, *m, chunks, n, logits, streams, counts);
}
int dsv4_draft(Engine* e, const Model* m, const Chunk* chunks, int n, const float* streams_in, float* logits,
               float* streams_out) {
    if (!m->has_mtp) return BAD_ARGUMENT;
    return e->functions->draft(*e, *m, chunks, n, streams_in, logits, streams_out);
}
int dsv4_matmul(Engine* e, const Matrix* w, const float* x, int rows, float* y) {
    return e->functions->matmul(*e, *w, x, rows, y);
}
int dsv4_mix(Engine* e, const Model* m, const Mixing* site, const float* streams, int rows, float* x, float* post,
             float* comb) {
    return e->functions->mix(*e, *m, *site, streams, rows, x, post, comb);
}
int dsv4_unmix(Engine* e, const Model* m, const float* y, const float* post, const float* comb, int rows,
               float* streams) {
    return e->functions->unmix(*e, *m, y, post, comb, rows, streams);
}
int dsv4_moe(Engine* e, const Model* m, const Layer* layer, const float* x, const int32_t* ids, int rows, float* y) {
    return e->functions->moe(*e, *m, *layer, x, ids, rows, y);
}
int dsv4_attend(Engine* e, const Model* m, const Layer* layer, const Chunk* chunk, const float* x, float* y) {
    return e->functions->attend(*e, *m, *layer, *chunk, x, y);
}
int dsv4_index(Engine* e, const Model* m, const Layer* layer, const uint8_t* const* pages, const float* q,
               const float* weights, int keys, float* scores, int32_t* chosen) {
    return e->functions->index(*e, *m, *layer, pages, q, weights, keys, scores, chosen);
}
int dsv4_encode_rows(Engine* e, const Model* m, const float* rows, int count, uint8_t* out) {
    e->functions->encode_rows(*m, rows, count, out);
    return OK;
}
int dsv4_decode_rows(Engine* e, const Model* m, const uint8_t* rows, int count, float* out) {
    e->functions->decode_rows(*m, rows, count, out);
    return OK;
}

}  // extern "C"
