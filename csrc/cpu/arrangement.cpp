#include "arrangement.h"

#include <algorithm>

namespace pixelfast {
namespace {

// Of a tile: a full block of rows for the products (product_impl.h). With more, buffers fall out of the caches.
constexpr int kMostImages = 12;

// What the choice rests on, in units of one multiply-add of a vector of weights with one row. Measured on Zen 4; the
// choice changes no result, and within a factor of two of these numbers it hardly changes.
constexpr double kLoad = 4;          // fetching a vector of weights, while nothing else is to do
constexpr double kInstruction = 150;  // starting an instruction
constexpr double kCell = 60;          // of that, for each row in flight
constexpr double kStep = 1000;        // waiting for the other threads of a team
constexpr double kWorthIt = 0.85;     // anything but rows one after another must be expected to take less than this

constexpr int kMostTeam = 16;         // threads of a tile
constexpr double kMostSteps = 1 << 30;  // of a wave; they are counted in int

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Time for some instructions at one place or over a stretch: `rows` pixels in all, weights fetched `fetches` times.
double cost(const Effort& effort, double rows, double fetches, double cells) {
  return effort.vectors * std::max(rows, kLoad * fetches) + effort.instructions * fetches * (kInstruction + kCell * cells);
}

int skew_of(const Plan& plan, int chunk, int lag) {
  int least = 1;
  for (const Reach& reach : plan.reaches) {
    const int columns = columns_behind(reach.pixels, reach.chunks, reach.rows, chunk, lag);
    least = std::max(least, ceil_div(std::max(columns, 0), reach.above));
  }
  return least;
}

double time_of_rows(const Plan& plan, int images, int threads, const Arrangement& a) {
  const double tiles = ceil_div(ceil_div(images, a.images), threads), width = plan.col1 - plan.col0;
  const double row = cost(plan.row_effort, width * a.images, 1, 1);
  const double pixel = cost(plan.pixel_effort, a.images, 1, 1);
  return tiles * plan.height * (row + width * pixel);
}

double time_of_parts(const Plan& plan, const Arrangement& a) {
  const double width = plan.col1 - plan.col0;
  const double row = cost(plan.row_effort, width * a.images / a.team, 1, 1) + plan.row_effort.instructions * kStep;
  Effort pixel = plan.pixel_effort;
  pixel.vectors = std::max(plan.ahead.vectors, pixel.vectors - plan.ahead.vectors);
  const double waiting = static_cast<double>(plan.ahead.items.size()) * kCell;
  return plan.height * (row + width * (cost(pixel, a.images, 1, 1) + waiting));
}

double time_of_wave(const Plan& plan, const Arrangement& a) {
  const double width = plan.col1 - plan.col0, steps = (plan.height - 1.0) * a.skew + width + plan.most_lead;
  const int sharing = a.split == Split::rows ? a.team : 1;
  const double cells = std::max(1.0, plan.height * width / steps / sharing), rows = cells * a.images;
  const double chunks = cost(plan.row_effort, rows, 1.0 / a.chunk, cells), pixels = cost(plan.pixel_effort, rows, 1, cells);
  return steps * (chunks + pixels + (a.team > 1 ? kStep : 0));
}

}  // namespace

// Tiles of equal size, as many for each thread.
Arrangement one_after_another(int images, int threads, bool together) {
  Arrangement a;
  const int each = ceil_div(images, threads);
  const int tiles = together ? threads : ceil_div(each, kMostImages) * threads;
  a.images = ceil_div(images, tiles);
  a.threads = std::min(threads, ceil_div(images, a.images));
  return a;
}

Arrangement in_parts(int images, int teams, int team) {
  Arrangement a;
  a.split = Split::parts, a.team = team, a.threads = teams * team, a.images = ceil_div(images, teams);
  return a;
}

Arrangement as_wave(const Plan& plan, int images, int teams, int team, Split split, int chunk) {
  Arrangement a;
  a.wave = true, a.split = split, a.team = team, a.threads = teams * team;
  a.chunk = ceil_div(chunk, plan.cell) * plan.cell;
  a.images = ceil_div(images, teams);
  // A thread may be so many steps behind another.
  a.lag = split == Split::none ? 1 : 2;
  a.skew = ceil_div(skew_of(plan, a.chunk, a.lag), plan.cell) * plan.cell;
  a.rows_in_flight = ceil_div(steps_of_row(plan.col1 - plan.col0, plan.most_lead, a.chunk, a.lag), a.skew);
  return a;
}

Arrangement arrange(const Plan& plan, int images, int threads, bool together) {
  Arrangement best = one_after_another(images, threads, together);
  double least = time_of_rows(plan, images, threads, best) * kWorthIt;
  const auto together_in_parts = [&](int teams, int team) {
    const Arrangement a = in_parts(images, teams, team);
    const double time = time_of_parts(plan, a);
    if (time < least) least = time, best = a;
  };
  const auto consider = [&](int teams, int team, Split split) {
    if (!plan.waves) return;
    for (int chunk : {1, 2, 4, 8}) {
      const Arrangement a = as_wave(plan, images, teams, team, split, chunk);
      const double time = time_of_wave(plan, a);
      if (static_cast<double>(a.skew) * plan.height < kMostSteps && time < least) least = time, best = a;
    }
  };
  for (int teams = 1; teams <= std::min(images, threads); teams++) {
    if (images > teams * kMostImages && !together) continue;
    const int most = std::min(threads / teams, kMostTeam);
    consider(teams, 1, Split::none);
    for (int team = 2; team <= most; team++) {
      consider(teams, team, Split::rows);
      together_in_parts(teams, team);
    }
  }
  return best;
}

}  // namespace pixelfast
