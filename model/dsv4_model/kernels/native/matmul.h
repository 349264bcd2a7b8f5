// All products of a region at once, shared out to the threads.
#pragma once
#include <algorithm>
#include <optional>
#include <vector>

#include "amx.h"
#include "dots.h"
#include "pool.h"
#if AMX
#include "amx_matmul.h"
#else
#include "panels.h"
#endif

namespace ISA {

static void list_jobs(const Product* products, int count, int threads, std::vector<ProductJob>& jobs) {
    int panels = 0;
    for (int i = 0; i < count; i++) panels += products[i].m > FEW ? (products[i].rows + PANEL - 1) / PANEL : 0;
    // Narrow weights: the rows of x are shared out as well.
    const int wanted = panels ? (4 * threads + panels - 1) / panels : 1;
    jobs.clear();
    for (int i = 0; i < count; i++) {
        const Product& p = products[i];
        if (p.m <= 0) continue;
        const bool many = p.m > FEW;
        const int strips = many ? std::max(1, std::min(wanted, p.m / 64)) : 1;
        const int step = many ? PANEL : DOT_ROWS, strip = ((p.m + strips - 1) / strips + 31) & ~31;
        for (int column = 0; column < p.rows; column += step)
            for (int from = 0; from < p.m; from += strip) jobs.push_back({i, column, from, std::min(from + strip, p.m)});
    }
}

// None of the products may read what another writes.
static void multiply(Pool& pool, Arena& arena, const Product* products, int count) {
    static thread_local std::vector<ProductJob> jobs;
    list_jobs(products, count, pool.threads(), jobs);
    const Arena::Mark mark = arena.mark();
    std::optional<ManyRows> many;
    if (std::any_of(products, products + count, [](const Product& p) { return p.m > FEW; }))
        many.emplace(pool, arena, products, count);
    const ProductJob* list = jobs.data();
    // Several jobs at a time, so that taking one costs little beside doing it.
    const int total = static_cast<int>(jobs.size());
    const int group = total > 6 * pool.threads() ? total / (6 * pool.threads()) : 1;
    pool.run((total + group - 1) / group, [&](int number, int thread) {
        [[maybe_unused]] std::optional<TileRegisters> registers;
        if (many) registers.emplace();
        for (int j = number * group; j < std::min((number + 1) * group, total); j++) {
            const Product& p = products[list[j].product];
            if (p.m <= FEW)
                few(p, list[j].column, std::min(p.rows - list[j].column, DOT_ROWS));
            else
                many->multiply(list[j], thread);
        }
    });
    arena.release(mark);
}

}  // namespace ISA
