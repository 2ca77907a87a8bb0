// What this processor can do at most: float32 multiply-adds, and reading memory, by any number of pinned threads.
//
// machine.py compiles this file for the processor that it runs on (-O3 -march=native) and calls the two functions.
// Vectors are those of GCC and Clang, as wide as the target's registers; a * b + c becomes one fused multiply-add where the
// target has one. Left out: other types than float32, writing, several NUMA nodes.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>
#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
using Vector = float __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / sizeof(float);
// Two pipes of latency 4 need 8 independent chains; 12 fit into 16 registers beside the two factors.
constexpr int kChains = 12;
constexpr int kSteps = 4096;

using Clock = std::chrono::steady_clock;

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// The processors that this process may use, in turn; nothing happens where threads cannot be pinned.
void pin(int index) {
#ifdef __linux__
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  const int count = CPU_COUNT(&allowed);
  if (count == 0) return;
  int wanted = index % count;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || wanted-- > 0) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
    return;
  }
#else
  (void)index;
#endif
}

// Six chains, in registers. Written out: an array of them would be kept in memory.
struct Six {
  Vector a, b, c, d, e, f;
  void step(Vector factor, Vector term) {
    a = a * factor + term, b = b * factor + term, c = c * factor + term;
    d = d * factor + term, e = e * factor + term, f = f * factor + term;
  }
};

// kSteps x kChains vector multiply-adds.
Vector chains(Vector factor, Vector term) {
  Six low{term, term * 2, term * 3, term * 4, term * 5, term * 6}, high = low;
  high.step(factor, term);
  for (int step = 0; step < kSteps; ++step) {
    low.step(factor, term);
    high.step(factor, term);
  }
  return low.a + low.b + low.c + low.d + low.e + low.f + high.a + high.b + high.c + high.d + high.e + high.f;
}

// The sum of so many vectors, a multiple of 8.
Vector read(const float* data, std::size_t vectors) {
  const Vector* at = reinterpret_cast<const Vector*>(data);
  Vector a{}, b{}, c{}, d{}, e{}, f{}, g{}, h{};
  for (const Vector* end = at + vectors; at < end; at += 8) {
    a += at[0], b += at[1], c += at[2], d += at[3];
    e += at[4], f += at[5], g += at[6], h += at[7];
  }
  return a + b + c + d + e + f + g + h;
}

float use(Vector value) {
  float lanes[kLanes];
  std::memcpy(lanes, &value, sizeof(lanes));
  return lanes[0];
}

// Runs prepare(thread) and then work(thread) again and again in every thread at once; gives units of work per second in all.
// work returns how many units it did.
double together(int threads, double seconds, const std::function<void(int)>& prepare,
                const std::function<double(int)>& work) {
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<double> rate(threads, 0.0);
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t)
    workers.emplace_back([&, t] {
      pin(t);
      prepare(t);
      work(t);
      ready.fetch_add(1);
      while (!go.load()) std::this_thread::yield();
      const auto begin = Clock::now();
      double done = 0, took = 0;
      do {
        done += work(t);
        took = since(begin);
      } while (took < seconds);
      rate[t] = done / took;
    });
  while (ready.load() < threads) std::this_thread::yield();
  go.store(true);
  for (auto& worker : workers) worker.join();
  double total = 0;
  for (double one : rate) total += one;
  return total;
}

std::atomic<float> sink;

}  // namespace

// float32 operations per second of `threads` threads, two for each multiply-add, measured for `seconds`.
extern "C" double pixelfast_peak_flops(int threads, double seconds) {
  volatile float factor = 0.999f, term = 0.001f;  // unknown to the compiler, and no chain leaves the normal numbers
  return together(
      threads, seconds, [](int) {},
      [&](int) {
        Vector factors, terms;
        for (int lane = 0; lane < kLanes; ++lane) factors[lane] = factor, terms[lane] = term * static_cast<float>(lane + 1);
        sink.store(use(chains(factors, terms)));
        return 2.0 * kSteps * kChains * kLanes;
      });
}

// Bytes per second that `threads` threads read, each from `bytes` of its own, measured for `seconds`; 0: no memory.
extern "C" double pixelfast_read_bandwidth(int threads, std::int64_t bytes, double seconds) {
  const std::size_t vectors = std::max<std::size_t>(8, static_cast<std::size_t>(bytes) / kBytes / 8 * 8);
  std::vector<float*> data(threads, nullptr);
  std::atomic<bool> failed{false};
  const double rate = together(
      threads, seconds,
      [&](int t) {
        void* found = nullptr;
        if (posix_memalign(&found, 4096, vectors * kBytes) != 0) {
          failed.store(true);
          return;
        }
        data[t] = static_cast<float*>(found);
        std::fill_n(data[t], vectors * kLanes, 1.0f);
      },
      [&](int t) {
        if (data[t] == nullptr) return 0.0;
        const std::size_t repeats = std::max<std::size_t>(1, (std::size_t{1} << 20) / (vectors * kBytes));
        for (std::size_t i = 0; i < repeats; ++i) {
          sink.store(use(read(data[t], vectors)));
          asm volatile("" ::: "memory");
        }
        return static_cast<double>(repeats * vectors * kBytes);
      });
  for (float* found : data) std::free(found);
  return failed.load() ? 0.0 : rate;
}
