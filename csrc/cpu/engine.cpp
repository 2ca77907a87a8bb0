#include "engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <tuple>

namespace pixelfast {
namespace {

constexpr auto kPollEvery = std::chrono::milliseconds(20);
// Of a tile: a full block of rows for the products (product_impl.h). With more, buffers fall out of the caches.
constexpr int kMostImages = 12;

// Tiles of equal size, as many for each thread.
int tile_size(const Call& call) {
  const int each = (call.images + call.threads - 1) / call.threads;
  if (call.by_row) return each;
  const int tiles = (each + kMostImages - 1) / kMostImages * call.threads;
  return (call.images + tiles - 1) / tiles;
}

class Crew {
 public:
  Crew(const Plan& plan, const Call& call)
      : plan_(plan), call_(call), size_(tile_size(call)), tiles_((call.images + size_ - 1) / size_) {
    rows_.assign(std::min(call.threads, tiles_), 0);
    next_ = static_cast<int>(rows_.size());
  }

  // Whatever happens, no thread outlives the call.
  ~Crew() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

  std::optional<Position> run(Watcher& watcher) {
    for (size_t w = 0; w < rows_.size(); w++) threads_.emplace_back([this, w] { work(w); });
    int reported = 0;
    for (bool finished = false; !finished;) {
      int rows = 0;
      finished = wait(reported, rows);
      while (call_.by_row && reported < rows) watcher.row_finished(reported++);
      watcher.poll();
    }
    if (error_) std::rethrow_exception(error_);
    return failure_;
  }

 private:
  // Until something happens or it is time to poll. Gives how many rows every worker has finished.
  bool wait(int reported, int& rows) {
    std::unique_lock<std::mutex> lock(mutex_);
    auto news = [&] {
      rows = *std::min_element(rows_.begin(), rows_.end());
      return finished_ == threads_.size() || (call_.by_row && rows > reported);
    };
    changed_.wait_for(lock, kPollEvery, news);
    return finished_ == threads_.size();
  }

  void work(size_t worker) {
    std::optional<Position> failure;
    std::exception_ptr error;
    try {
      Tile tile(plan_, call_, size_, stop_);
      for (int t = static_cast<int>(worker); t < tiles_ && !failure && !stop_; t = next_++)
        failure = tile.run(t * size_, std::min(size_, call_.images - t * size_), [&](int row) { report(worker, row); });
    } catch (...) {
      error = std::current_exception();
    }
    std::lock_guard<std::mutex> lock(mutex_);
    if (failure || error) stop_ = true;
    if (failure && (!failure_ || earlier(*failure, *failure_))) failure_ = failure;
    if (error && !error_) error_ = error;
    finished_++;
    changed_.notify_all();
  }

  void report(size_t worker, int row) {
    if (!call_.by_row) return;
    std::lock_guard<std::mutex> lock(mutex_);
    rows_[worker] = row + 1;
    changed_.notify_all();
  }

  static bool earlier(const Position& a, const Position& b) {
    return std::tie(a.row, a.col, a.channel, a.image) < std::tie(b.row, b.col, b.channel, b.image);
  }

  const Plan& plan_;
  const Call& call_;
  const int size_, tiles_;
  std::atomic<int> next_{0};  // tile to run once a worker has finished its first
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;

  std::mutex mutex_;  // guards all that follows
  std::condition_variable changed_;
  std::vector<int> rows_;  // finished, of each worker
  size_t finished_ = 0;
  std::exception_ptr error_;
  std::optional<Position> failure_;
};

}  // namespace

std::optional<Position> sample(const Plan& plan, const Call& call, Watcher& watcher) {
  if (call.images == 0) return std::nullopt;
  return Crew(plan, call).run(watcher);
}

}  // namespace pixelfast
