#include "ahead.h"

#include <algorithm>

#include "../slots.h"
#include "plan.h"

namespace pixelfast {
namespace {

// How far a pixel must have come so that what `slot` reads of it is final.
int written_by(const Plan& plan, const Slot& slot) {
  int time = 0, last = 0;
  for (int k = 0; k < plan.channels; k++) {
    for (const Step& step : plan.steps[k]) {
      time++;
      if (overlap(plan.slots[step.out], slot)) last = time;
    }
    time++;
    for (const PlannedEncode& encode : plan.encodes[k])
      if (overlap(plan.slots[encode.out], slot)) last = time;
  }
  return last;
}

// Whether an instruction before (k, index) of the same pixel touches `slot`: it must not find other numbers there, and what
// it writes comes first.
bool touched_before(const Plan& plan, const Slot& slot, int k, size_t index) {
  for (int earlier = 0; earlier <= k; earlier++)
    for (size_t i = 0; i < (earlier < k ? plan.steps[earlier].size() : index); i++) {
      const Step& step = plan.steps[earlier][i];
      if (overlap(plan.slots[step.out], slot)) return true;
      for (int s = step.first_source; s < step.last_source; s++)
        if (overlap(plan.slots[s], slot)) return true;
      const auto* product = std::get_if<PackedProduct>(&step.body);
      if (product && product->added >= 0 && overlap(plan.slots[product->added], slot)) return true;
    }
  return false;
}

// Whether a product adds its taps one after another to what is there: then adding them in two goes is the same.
bool adds_in_order(const Plan& plan, const PackedProduct& product) {
  return std::all_of(product.panels.begin(), product.panels.end(), [&](const Panel& panel) {
    return plan.kernels->sets_of_sums(panel.vectors) == 1;
  });
}

}  // namespace

Ahead find_ahead(Plan& plan) {
  Ahead ahead;
  for (int k = 0; k < plan.channels; k++) {
    for (size_t i = 0; i < plan.steps[k].size(); i++) {
      Step& step = plan.steps[k][i];
      auto* product = std::get_if<PackedProduct>(&step.body);
      if (!product || product->panels[0].bias || touched_before(plan, plan.slots[step.out], k, i)) continue;
      Ahead::Item item{k, static_cast<int>(i), 0, 0};
      ptrdiff_t inputs = 0;
      for (int s = step.first_source; s < step.last_source; s++, item.taps++) {
        const Slot& slot = plan.slots[s];
        if (slot.row != 0 || slot.col >= 0) break;
        item.after = std::max(item.after, written_by(plan, slot));
        inputs += slot.count;
      }
      if (item.taps == 0) continue;
      if (!adds_in_order(plan, *product)) product->divided = item.taps;
      ahead.items.push_back(item);
      for (const Panel& panel : product->panels) ahead.vectors += static_cast<double>(inputs) * panel.vectors;
    }
  }
  // In the order in which the next pixel will need them, which is that of its steps.
  std::stable_sort(ahead.items.begin(), ahead.items.end(), [](const Ahead::Item& a, const Ahead::Item& b) {
    return a.step != b.step ? a.step < b.step : a.after < b.after;
  });
  for (int k = 0; k < plan.channels; k++) ahead.item_of.resize(ahead.item_of.size() + plan.steps[k].size() + 1, -1);
  ahead.waited_for.assign(ahead.item_of.size() + 1, 0);
  std::vector<int> first(plan.channels, 0);  // time of each step's first instruction
  for (int k = 1; k < plan.channels; k++) first[k] = first[k - 1] + static_cast<int>(plan.steps[k - 1].size()) + 1;
  for (size_t i = 0; i < ahead.items.size(); i++) {
    ahead.item_of[first[ahead.items[i].step] + ahead.items[i].index] = static_cast<int>(i);
    ahead.waited_for[ahead.items[i].after] = 1;
  }
  return ahead;
}

}  // namespace pixelfast
