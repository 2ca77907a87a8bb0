#include "engine.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>

namespace pixelfast {

class Crew {
 public:
  Crew(const Plan& plan, const Call& call, const Arrangement& arrangement)
      : plan_(plan),
        call_(call),
        arrangement_(arrangement),
        tiles_((call.images + arrangement.images - 1) / arrangement.images),
        rows_(arrangement.threads, 0),
        teams_(arrangement.shared() ? tiles_ : 0) {
    next_ = arrangement.threads;
  }

  // Whatever happens, no thread outlives the call.
  ~Crew() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

  void start() {
    make_teams();
    const int threads = arrangement_.shared() ? tiles_ * arrangement_.team : arrangement_.threads;
    rows_.resize(threads);
    threads_.reserve(threads);
    try {
      for (int w = 0; w < threads; w++) threads_.emplace_back([this, w] { work(w); });
    } catch (const std::system_error& error) {
      throw std::runtime_error("it cannot start " + std::to_string(threads) + " threads (" + error.what() +
                               "): ask for fewer (threads=)");
    }
  }

  // See Running::wait. Rows are finished once every worker has finished them.
  std::pair<bool, int> wait(std::chrono::milliseconds most, int reported) {
    std::unique_lock<std::mutex> lock(mutex_);
    int rows = 0;
    changed_.wait_for(lock, most, [&] {
      rows = call_.by_row ? *std::min_element(rows_.begin(), rows_.end()) : 0;
      return finished_ == threads_.size() || rows > reported;
    });
    return {finished_ == threads_.size(), rows};
  }

  std::optional<Position> failure() const {
    if (error_) std::rethrow_exception(error_);
    return failure_;
  }

 private:
  void work(int worker) {
    std::optional<Position> failure;
    std::exception_ptr error;
    try {
      failure = arrangement_.shared() ? run_member(worker) : run_tiles(worker);
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

  // One tile after another, each alone.
  std::optional<Position> run_tiles(int worker) {
    const int size = arrangement_.images;
    Tile tile(plan_, call_, size, 0);
    Worker hands(plan_, call_, arrangement_, tile, stop_);
    std::optional<Position> failure;
    for (int t = worker; t < tiles_ && !failure && !stop_; t = next_++) {
      tile.start(t * size, std::min(size, call_.images - t * size));
      failure = hands.run_rows([&](int row) { report(worker, row); });
      tile.finish();
    }
    return failure;
  }

  // A part of one tile; the last of its team to finish closes it.
  std::optional<Position> run_member(int worker) {
    const int member = worker % arrangement_.team;
    Team& team = teams_[worker / arrangement_.team];
    Worker hands(plan_, call_, arrangement_, *team.tile, stop_);
    const auto finished = [&](int row) { report(worker, row); };
    const auto failure = arrangement_.wave ? hands.run_wave(member, team.progress.get(), finished)
                                           : hands.run_parts(member, team.progress.get(), finished);
    if (--team.busy == 0) team.tile->finish();
    return failure;
  }

  void make_teams() {
    const int size = arrangement_.images;
    for (int t = 0; t < static_cast<int>(teams_.size()); t++) {
      Team& team = teams_[t];
      team.tile = std::make_unique<Tile>(plan_, call_, size, arrangement_.rows_in_flight);
      team.tile->start(t * size, std::min(size, call_.images - t * size));
      team.progress = std::make_unique<Progress[]>(arrangement_.team);
      for (int m = 0; m < arrangement_.team; m++) team.progress[m].step = std::numeric_limits<int>::min();
      team.busy = arrangement_.team;
    }
  }

  void report(int worker, int row) {
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
  const Arrangement& arrangement_;
  const int tiles_;
  std::atomic<int> next_{0};  // tile to run once a worker has finished its first
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;

  // A tile that several threads share.
  struct Team {
    std::unique_ptr<Tile> tile;
    std::unique_ptr<Progress[]> progress;
    std::atomic<int> busy{0};
  };

  std::mutex mutex_;  // guards all that follows
  std::condition_variable changed_;
  std::vector<int> rows_;  // finished, of each worker
  size_t finished_ = 0;
  std::exception_ptr error_;
  std::optional<Position> failure_;
  std::vector<Team> teams_;
};

Running::Running(const Plan& plan, Call call, Arrangement arrangement)
    : plan_(plan), call_(std::move(call)), arrangement_(arrangement), crew_(std::make_unique<Crew>(plan_, call_, arrangement_)) {
  decided_ = arrangement_.threads == 1 && !arrangement_.wave;
  crew_->start();
}

Running::~Running() = default;

std::pair<bool, int> Running::wait(std::chrono::milliseconds most, int reported) {
  const auto [finished, rows] = crew_->wait(most, reported);
  if (!finished || decided_ || !crew_->failure()) return {finished, rows};
  // Which draw fails first depends on the order of a wave and on how threads get on: one thread, row after row, always finds
  // the same. It has no rows to report that are not reported already.
  decided_ = true;
  crew_.reset();
  arrangement_ = one_after_another(call_.images, 1, call_.by_row);
  call_.by_row = false;
  crew_ = std::make_unique<Crew>(plan_, call_, arrangement_);
  crew_->start();
  return {false, rows};
}

std::optional<Position> Running::failure() const { return crew_->failure(); }

}  // namespace pixelfast
