// How a call is spread over threads: which images form a tile, and whether a tile's rows run one after another on one
// thread, or as a wave (pixelfast/lowering/wavefront.py) on a team of threads. Every arrangement computes the same, bit by bit.
#pragma once

#include "plan.h"

namespace pixelfast {

struct Arrangement {
  int threads = 1;      // in all
  int images = 1;       // of a tile
  int team = 1;         // threads of a tile
  bool wave = false;
  // none: one thread runs all rows; rows: each thread of a team runs every so many rows; parts: rows one after another, each
  // thread runs a part of their instructions, the first one their pixels
  Split split = Split::none;
  int chunk = 1, lag = 1, skew = 1;  // see pixelfast/lowering/wavefront.py
  int rows_in_flight = 0;

  // Whether a tile is run by several threads, or by several rows.
  bool shared() const { return wave || team > 1; }
};

// The quickest, as far as a rough model of costs can tell, for `images` images on at most `threads` threads. `together`:
// all images in one go, since rows are reported.
Arrangement arrange(const Plan& plan, int images, int threads, bool together);

// Rows one after another, with as many images of a tile as is best.
Arrangement one_after_another(int images, int threads, bool together);

// The same with a team of threads for each of `teams` tiles.
Arrangement in_parts(int images, int teams, int team);

// A wave: `teams` tiles with a team of threads for each.
Arrangement as_wave(const Plan& plan, int images, int teams, int team, Split split, int chunk);

}  // namespace pixelfast
