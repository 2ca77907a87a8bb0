// CUDA device code on a processor: one thread-block cluster whose threads are fibers of this thread.
//
// It runs what device.h offers to a kernel: barriers of block and cluster, shuffles, shared memory, the shared memory of
// the cluster's other blocks, mbarriers, and stores that arrive later (st.async). The emulation is sequentially
// consistent: a fiber runs until it waits, one at a time, in an order that is meant to be unkind:
//
//   first   the lowest fiber that can run, so that the first block runs far ahead; stores arrive at once
//   last    the highest fiber that can run, so that the last block does; stores arrive when nobody else can run
//   random  any, by a seed; stores arrive at any time
//
// A missing barrier shows as a wrong number in one of them. These are errors, and say who waited where: a barrier that
// some threads of its block never reach, threads of one block that wait at different places (a divergent barrier), a
// shuffle that not all lanes join, a deadlock, a store beyond a block's shared memory, and a block that ends while a store
// is on its way to it. Shared memory starts as NaN; with AddressSanitizer its ends are watched, too.
// What cannot show: weak memory ordering, races inside a warp that a GPU would run in lockstep, speed.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Leaves one stack for another: ucontext asks the system at every switch, and there are millions.
extern "C" void pixelfast_switch_stack(void** left, void* entered);
asm(R"(
.text
.weak pixelfast_switch_stack
.type pixelfast_switch_stack, @function
pixelfast_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#endif

namespace pixelfast::cuda::shim {

enum class Order { first, last, random };

struct Error : std::logic_error {
  using std::logic_error::logic_error;
};

constexpr int kWarp = 32;
constexpr size_t kStack = 64 * 1024;

// Where a stack was left.
struct Context {
#if defined(__x86_64__)
  void* top = nullptr;
  void prepare(char* stack, void (*entry)()) {
    auto* at = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + kStack) & ~uintptr_t{15});
    *--at = nullptr;  // entry's own return address: it never returns
    *--at = reinterpret_cast<void*>(entry);
    top = at - 6;  // saved registers, whatever they hold
  }
  static void change(Context& from, Context& to) { pixelfast_switch_stack(&from.top, to.top); }
#else
  ucontext_t state{};
  void prepare(char* stack, void (*entry)()) {
    getcontext(&state);
    state.uc_stack.ss_sp = stack;
    state.uc_stack.ss_size = kStack;
    state.uc_link = nullptr;
    makecontext(&state, entry, 0);
  }
  static void change(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
#endif
};

// Where a thread waits, or that it does not.
enum class Wait { nothing, warp, block, cluster, phase };

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  int block = 0, thread = 0;
  bool done = false;
  Wait wait = Wait::nothing;
  int line = 0;                       // of the barrier that it waits at
  const uint64_t* phase = nullptr;    // of the mbarrier, and the parity that it waits for the end of
  unsigned parity = 0;
  uint64_t shown[2] = {};             // to the other lanes of its warp, in turns: one may still look at the last
  int shuffles = 0;
};

// An mbarrier in 64 bits: how many phases have ended, who is still to arrive, how many arrive in all, and bytes to come.
struct Mbarrier {
  uint16_t phases, pending, expected;
  int16_t reserved;
  static_assert(sizeof(uint16_t) == 2);
};

struct Store {
  int block;
  uint32_t* target;
  uint32_t value;
  uint64_t* barrier;
};

class Cluster {
 public:
  Cluster(int blocks, int threads, size_t shared_bytes, Order order, uint64_t seed)
      : blocks_(blocks), threads_(threads), bytes_(shared_bytes), order_(order), random_(seed * 2 + 1) {
    if (blocks < 1 || threads < kWarp || threads % kWarp) throw Error("a block needs whole warps");
    for (int b = 0; b < blocks; b++) {
      // Aligned as on the device; new[] of bytes alone would be watched at its ends as well, but aligned to 16.
      shared_.emplace_back(new (std::align_val_t{128}) unsigned char[shared_bytes]);
      std::memset(shared_.back(), 0xff, shared_bytes);  // NaN
    }
    fibers_.resize(static_cast<size_t>(blocks) * threads);
    transactions_.resize(blocks);
  }
  ~Cluster() {
    for (unsigned char* memory : shared_) ::operator delete[](memory, std::align_val_t{128});
  }
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  // Runs `body` once as every thread. Rethrows what a thread throws.
  void run(const std::function<void()>& body) {
    body_ = &body;
    Cluster* before = current();
    current() = this;
    for (size_t i = 0; i < fibers_.size(); i++) start(fibers_[i], static_cast<int>(i));
    try {
      for (;;) {
        if (order_ == Order::first || (order_ == Order::random && next_random() % 4 == 0)) deliver();
        const int next = choose();
        if (next >= 0) {
          resume(next);
          if (failure_) std::rethrow_exception(failure_);
        } else if (!stores_.empty()) {
          deliver();
        } else if (running_ == 0) {
          break;
        } else {
          throw Error("deadlock: " + where());
        }
      }
    } catch (...) {
      current() = before;
      throw;
    }
    current() = before;
  }

  static Cluster*& current() {
    static thread_local Cluster* cluster = nullptr;
    return cluster;
  }

  // What device.h asks for, on behalf of the running thread.

  Fiber& self() { return fibers_[now_]; }
  int blocks() const { return blocks_; }
  int threads() const { return threads_; }
  unsigned char* shared(int block) { return shared_.at(block); }

  void barrier(Wait kind, int line) {
    Fiber& me = self();
    me.wait = kind;
    me.line = line;
    const int first = kind == Wait::warp ? me.thread / kWarp * kWarp : 0, count = kind == Wait::warp ? kWarp : threads_;
    const int from = kind == Wait::cluster ? 0 : me.block, to = kind == Wait::cluster ? blocks_ : me.block + 1;
    bool all = true;
    for (int b = from; b < to; b++)
      for (int t = first; t < first + count; t++) {
        const Fiber& other = fiber(b, t);
        if (other.done) throw Error("a thread waits for one that has ended: " + name(me) + ", " + name(other));
        if (other.wait == kind ? other.line != line : divergent(me, other))
          throw Error("a divergent barrier: " + name(me) + ", " + name(other));
        all = all && other.wait == kind;
      }
    if (!all) return leave();
    for (int b = from; b < to; b++)
      for (int t = first; t < first + count; t++) fiber(b, t).wait = Wait::nothing;
  }

  uint64_t shuffle(uint64_t value, int lane, int line) {
    Fiber& me = self();
    const int turn = me.shuffles++ % 2;
    me.shown[turn] = value;
    barrier(Wait::warp, line);
    return fiber(me.block, me.thread / kWarp * kWarp + lane % kWarp).shown[turn];
  }

  void mbarrier_init(uint64_t* barrier, int arrivals) {
    transaction(barrier) = 0;
    write(barrier, Mbarrier{0, static_cast<uint16_t>(arrivals), static_cast<uint16_t>(arrivals), 0});
  }
  void mbarrier_arrive(uint64_t* barrier, int bytes) {
    Mbarrier state = read(barrier);
    if (state.pending == 0) throw Error("more arrivals at an mbarrier than it was made for: " + name(self()));
    state.pending--;
    write(barrier, state);
    complete(barrier, -bytes);
  }
  void mbarrier_wait(const uint64_t* barrier, unsigned parity, int line) {
    if ((read(barrier).phases & 1u) != parity) return;
    Fiber& me = self();
    me.wait = Wait::phase, me.phase = barrier, me.parity = parity, me.line = line;
    leave();
  }
  void store_later(int block, uint32_t* target, uint32_t value, uint64_t* barrier) {
    const auto* base = shared_.at(block);
    const auto* at = reinterpret_cast<unsigned char*>(target);
    if (at < base || at + sizeof value > base + bytes_) throw Error("a store outside of shared memory: " + name(self()));
    stores_.push_back({block, target, value, barrier});
  }

 private:
  Fiber& fiber(int block, int thread) { return fibers_[static_cast<size_t>(block) * threads_ + thread]; }

  // Whether one that `me` waits for waits at another kind of barrier, which it will not leave without `me`.
  static bool divergent(const Fiber& me, const Fiber& other) {
    if (me.wait == Wait::warp) return other.wait != Wait::nothing && other.wait != Wait::phase;
    return me.block == other.block && (other.wait == Wait::block || other.wait == Wait::cluster);
  }

  // For the running thread, which ends.
  void check_nobody_waits() {
    const Fiber& me = self();
    for (const Fiber& other : fibers_) {
      const bool near = other.block == me.block, in_warp = near && other.thread / kWarp == me.thread / kWarp;
      if (other.wait == Wait::cluster || (near && other.wait == Wait::block) || (in_warp && other.wait == Wait::warp))
        throw Error("a thread ends that another waits for: " + name(me) + ", " + name(other));
    }
  }

  static Mbarrier read(const uint64_t* barrier) {
    Mbarrier state;
    std::memcpy(&state, barrier, sizeof state);
    return state;
  }
  static void write(uint64_t* barrier, const Mbarrier& state) { std::memcpy(barrier, &state, sizeof state); }

  // Bytes that arrived less those that are expected, of each mbarrier; they may arrive before they are expected.
  int& transaction(const uint64_t* barrier) {
    for (int b = 0; b < blocks_; b++) {
      const auto* at = reinterpret_cast<const unsigned char*>(barrier);
      if (at < shared_[b] || at >= shared_[b] + bytes_) continue;
      for (auto& [key, bytes] : transactions_[b])
        if (key == barrier) return bytes;
      transactions_[b].emplace_back(barrier, 0);
      return transactions_[b].back().second;
    }
    throw Error("an mbarrier outside of shared memory");
  }

  void complete(uint64_t* barrier, int bytes) {
    Mbarrier state = read(barrier);
    transaction(barrier) += bytes;
    if (state.pending || transaction(barrier)) return;
    state.phases++;
    state.pending = state.expected;
    write(barrier, state);
  }

  // One store arrives; those from one thread to one block may arrive in any order.
  void deliver() {
    if (stores_.empty()) return;
    const size_t which = order_ == Order::random ? next_random() % stores_.size() : order_ == Order::last ? stores_.size() - 1 : 0;
    const Store store = stores_[which];
    stores_.erase(stores_.begin() + static_cast<ptrdiff_t>(which));
    bool ended = true;
    for (int t = 0; t < threads_; t++) ended = ended && fiber(store.block, t).done;
    if (ended) throw Error("a store is on its way to a block that has ended");
    std::memcpy(store.target, &store.value, sizeof store.value);
    complete(store.barrier, sizeof store.value);
  }

  bool can_run(const Fiber& fiber) const {
    if (fiber.done) return false;
    if (fiber.wait == Wait::phase) return (read(fiber.phase).phases & 1u) != fiber.parity;
    return fiber.wait == Wait::nothing;
  }

  int choose() {
    const int n = static_cast<int>(fibers_.size());
    const int offset = order_ == Order::random ? static_cast<int>(next_random() % n) : 0;
    for (int i = 0; i < n; i++) {
      const int index = order_ == Order::last ? n - 1 - i : (i + offset) % n;
      if (can_run(fibers_[index])) return index;
    }
    return -1;
  }

  void start(Fiber& fiber, int index) {
    fiber.block = index / threads_;
    fiber.thread = index % threads_;
    fiber.stack.reset(new char[kStack]);
    fiber.context.prepare(fiber.stack.get(), &Cluster::entry);
    running_++;
  }

  static void entry() {
    Cluster& cluster = *current();
    cluster.arrived(nullptr);
    try {
      (*cluster.body_)();
      cluster.check_nobody_waits();
    } catch (...) {
      cluster.failure_ = std::current_exception();
    }
    cluster.self().done = true;
    cluster.running_--;
    cluster.leave();
  }

  // AddressSanitizer wants to know which stack is in use.
  void resume(int index) {
    now_ = index;
    self().wait = Wait::nothing;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, self().stack.get(), kStack);
#endif
    Context::change(main_, self().context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }
  void leave() {
    Fiber& me = self();
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(me.done ? nullptr : &fake, main_stack_, main_size_);
#endif
    Context::change(me.context, main_);
#if defined(__SANITIZE_ADDRESS__)
    arrived(fake);
#endif
  }
  void arrived([[maybe_unused]] void* fake) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, &main_stack_, &main_size_);
#endif
  }

  uint64_t next_random() {
    random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
    return random_ >> 16;
  }

  static std::string name(const Fiber& fiber) {
    static const char* const kWaits[] = {"runs", "waits for its warp", "waits for its block", "waits for its cluster",
                                         "waits for an mbarrier"};
    std::string text = "thread " + std::to_string(fiber.thread) + " of block " + std::to_string(fiber.block);
    if (fiber.done) return text + " has ended";
    text += std::string(" ") + kWaits[static_cast<int>(fiber.wait)];
    return fiber.wait == Wait::nothing ? text : text + " at line " + std::to_string(fiber.line);
  }
  std::string where() const {
    std::string text;
    for (const Fiber& fiber : fibers_)
      if (!fiber.done && text.size() < 400) text += (text.empty() ? "" : ", ") + name(fiber);
    return text;
  }

  int blocks_, threads_, running_ = 0;
  size_t bytes_, now_ = 0;
  Order order_;
  uint64_t random_;
  std::vector<unsigned char*> shared_;
  std::vector<Fiber> fibers_;
  std::deque<Store> stores_;
  std::vector<std::vector<std::pair<const uint64_t*, int>>> transactions_;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr failure_;
  Context main_;
  const void* main_stack_ = nullptr;
  size_t main_size_ = 0;
};

}  // namespace pixelfast::cuda::shim
