// An engine: its threads, its scratch memory, and the instruction set that it uses.
#pragma once
#include "functions.h"
#include "pool.h"

struct Engine {
    Pool pool;
    Arena arena;
    const Functions* functions;
    explicit Engine(int threads, const Functions* f) : pool(threads), functions(f) {}
};
