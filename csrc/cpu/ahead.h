// What a second thread can do for a pixel before its turn: the part of its products that reads the pixels to its left.
//
// With few images the first thread spends its time fetching weights, and a good half of them belong to such taps. Their
// sums are added up in the same order as by one thread: first these taps, then the pixel's own.
#pragma once

#include <vector>

namespace pixelfast {

struct Plan;

// Times count a pixel's instructions over all steps, and after each step once for its draw.
struct Ahead {
  struct Item {
    int step, index;  // the instruction
    int after;        // the pixel to the left must have come so far: as many times as this
    int taps;         // that many of its taps, the first ones, read pixels to the left
  };
  std::vector<Item> items;       // in the order in which they are done
  std::vector<int> item_of;      // by time: its place among the items, or -1
  std::vector<char> waited_for;  // by time: whether an item waits for its end
  double vectors = 0;            // of weights

  int times() const { return static_cast<int>(item_of.size()); }
};

// Also divides the products for which one thread would add up in another order (PackedProduct::divided).
Ahead find_ahead(Plan& plan);

}  // namespace pixelfast
