// Threads that share the jobs of one region after another. A worker that the system has put aside is waited for
// only if it holds a job, so a loaded machine slows a region down but never stalls it.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

class Pool {
  public:
    explicit Pool(int threads) {
        for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
    }
    ~Pool() {
        stop_.store(true);
        wake();
        for (auto& worker : workers_) worker.join();
    }
    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls f(job, thread) for every job in 0 .. count - 1; returns when all have been done.
    template <class F>
    void run(int count, F&& f) {
        void* self = const_cast<void*>(static_cast<const void*>(&f));
        if (count <= 1 || workers_.empty()) {
            for (int i = 0; i < count; i++) invoke<std::remove_reference_t<F>>(self, i, 0);
            return;
        }
        call_ = invoke<std::remove_reference_t<F>>;
        self_ = self;
        count_ = static_cast<uint32_t>(count);
        done_.store(0, std::memory_order_relaxed);
        uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
        ticket_.store(epoch << 32 | count_, std::memory_order_seq_cst);
        if (sleepers_.load(std::memory_order_seq_cst) > 0) wake();
        take(epoch, 0);
        while (done_.load(std::memory_order_acquire) < count_) pause();
    }

  private:
    // Compiled once: a second copy might contract products and sums in another way, and round otherwise.
    template <class F>
    static __attribute__((noinline)) void invoke(void* self, int job, int thread) {
        (*static_cast<F*>(self))(job, thread);
    }
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        std::this_thread::yield();
#endif
    }
    void wake() {
        std::lock_guard<std::mutex> lock(mutex_);
        bell_.notify_all();
    }
    void take(uint64_t epoch, int thread) {
        for (;;) {
            uint64_t ticket = ticket_.load(std::memory_order_acquire);
            uint32_t left = static_cast<uint32_t>(ticket);
            if (ticket >> 32 != epoch || left == 0) return;
            if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
            // The fields of a region change only when its taken jobs are done: a won ticket vouches for them.
            call_(self_, static_cast<int>(count_ - left), thread);
            done_.fetch_add(1, std::memory_order_release);
        }
    }
    void work(int thread) {
        uint64_t seen = 0;
        for (;;) {
            int spins = 0;
            uint64_t epoch;
            while ((epoch = ticket_.load(std::memory_order_acquire) >> 32) == seen) {
                if (stop_.load(std::memory_order_relaxed)) return;
                if (++spins < 4000) {
                    pause();
                    continue;
                }
                std::unique_lock<std::mutex> lock(mutex_);
                sleepers_.fetch_add(1, std::memory_order_seq_cst);
                bell_.wait(lock, [&] {
                    return stop_.load() || ticket_.load(std::memory_order_seq_cst) >> 32 != seen;
                });
                sleepers_.fetch_sub(1, std::memory_order_seq_cst);
            }
            seen = epoch;
            take(epoch, thread);
        }
    }

    std::vector<std::thread> workers_;
    std::atomic<uint64_t> ticket_{0};  // epoch of the region << 32 | jobs left
    std::atomic<uint32_t> done_{0};
    std::atomic<int> sleepers_{0};
    std::atomic<bool> stop_{false};
    uint32_t count_ = 0;
    void (*call_)(void*, int, int) = nullptr;
    void* self_ = nullptr;
    std::mutex mutex_;
    std::condition_variable bell_;
};

// Scratch memory of one call: taken in order, given back all at once, kept for the next call.
class Arena {
  public:
    ~Arena() {
        for (auto& block : blocks_) std::free(block.data);
    }
    template <class T>
    T* take(int64_t count) {
        size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 127) & ~static_cast<size_t>(63);
        while (at_ < blocks_.size() && used_ + bytes > blocks_[at_].size) {
            at_++;
            used_ = 0;
        }
        if (at_ == blocks_.size()) {
            size_t size = bytes > (1u << 20) ? bytes : (1u << 20);
            void* data = std::aligned_alloc(64, size);
            if (!data) throw std::bad_alloc();
            blocks_.push_back({static_cast<uint8_t*>(data), size});
            used_ = 0;
        }
        T* out = reinterpret_cast<T*>(blocks_[at_].data + used_);
        used_ += bytes;
        return out;
    }
    struct Mark {
        size_t at, used;
    };
    Mark mark() const { return {at_, used_}; }
    void release(Mark mark) {
        at_ = mark.at;
        used_ = mark.used;
        if (at_ == 0 && used_ == 0 && blocks_.size() > 1) join();
    }

  private:
    struct Block {
        uint8_t* data;
        size_t size;
    };
    // Needs that grow from call to call would leave a trail of blocks that are too small: one large one replaces them.
    void join() {
        size_t total = 0;
        for (auto& block : blocks_) {
            total += block.size;
            std::free(block.data);
        }
        blocks_.clear();
        total = (total + total / 4 + 4095) & ~static_cast<size_t>(4095);
        void* data = std::aligned_alloc(4096, total);
        if (data) blocks_.push_back({static_cast<uint8_t*>(data), total});
    }
    std::vector<Block> blocks_;
    size_t at_ = 0, used_ = 0;
};
