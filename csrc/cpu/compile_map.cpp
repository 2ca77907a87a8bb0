// Expressions: common groups of operations become one, and results share registers.
#include <algorithm>

#include "plan.h"

namespace pixelfast {
namespace {

// A node is a leaf (below the number of leaves) or an operation; `code` as in MapOp, kDead once merged into another.
constexpr int kDead = -1;

struct Node {
  int code;
  int arguments;
  int args[kMostArguments];
};

class Compiler {
 public:
  Compiler(const Map& map, int count, SlotNumbers& slots)
      : map_(map), count_(count), slots_(slots), leaves_(static_cast<int>(map.leaves.size())) {
    for (const Op& op : map.ops) {
      Node node{static_cast<int>(op.name), arguments_of(op.name), {op.args[0], op.args[1], op.args[2], 0}};
      nodes_.push_back(node);
    }
    if (nodes_.empty()) nodes_.push_back(Node{kCopy, 1, {0}});
  }

  CompiledMap run() {
    drop_products_with_one();
    merge();
    bury_unused();
    place_leaves();
    place_operations();
    return std::move(out_);
  }

 private:
  Node* op(int index) { return index < leaves_ ? nullptr : &nodes_[index - leaves_]; }

  bool is(int index, Operation name) {
    Node* node = op(index);
    return node && node->code == static_cast<int>(name);
  }

  bool is_number(int index, float value) const {
    const float* number = index < leaves_ ? std::get_if<float>(&map_.leaves[index]) : nullptr;
    return number && *number == value;
  }

  std::vector<int> uses() const {
    std::vector<int> uses(leaves_ + nodes_.size(), 0);
    for (const Node& node : nodes_)
      for (int a = 0; a < node.arguments && node.code != kDead; a++) uses[node.args[a]]++;
    uses.back()++;
    return uses;
  }

  // x * 1 = x, as the derivation of elu in PyTorch leaves it.
  void drop_products_with_one() {
    std::vector<int> same(leaves_ + nodes_.size());
    for (int i = 0; i < static_cast<int>(same.size()); i++) {
      same[i] = i;
      Node* node = op(i);
      if (!node) continue;
      for (int a = 0; a < node->arguments; a++) node->args[a] = same[node->args[a]];
      if (!is(i, Operation::mul) || i + 1 == static_cast<int>(same.size())) continue;
      if (is_number(node->args[1], 1.0f)) same[i] = node->args[0];
      else if (is_number(node->args[0], 1.0f)) same[i] = node->args[1];
    }
  }

  void merge() {
    const std::vector<int> uses = this->uses();
    auto once = [&](int i, Operation name) { return is(i, name) && uses[i] == 1; };
    for (Node& node : nodes_) {
      for (int swap = 0; swap < 2; swap++) {
        const int a = node.args[swap], b = node.args[1 - swap];
        if (node.code == static_cast<int>(Operation::mul) && once(a, Operation::tanh) && once(b, Operation::sigmoid))
          node = gate(op(a)->args[0], op(b)->args[0], once);
        else if (node.code == static_cast<int>(Operation::add) && once(a, Operation::mul))
          node = Node{kMulAdd, 3, {op(a)->args[0], op(a)->args[1], b, 0}};
      }
      const int x = node.args[0];
      if (node.code == static_cast<int>(Operation::relu) && once(x, Operation::add))
        node = Node{kAddRelu, 2, {op(x)->args[0], op(x)->args[1]}};
      else if (is_elu(node))
        node = Node{kElu, 1, {node.args[1]}};
    }
  }

  template <class Once>
  Node gate(int a, int b, Once once) {
    if (!once(a, Operation::add) || !once(b, Operation::add)) return Node{kGate, 2, {a, b}};
    return Node{kGateOfSums, 4, {op(a)->args[0], op(a)->args[1], op(b)->args[0], op(b)->args[1]}};
  }

  // where(x > 0, x, expm1(x))
  bool is_elu(const Node& node) {
    if (node.code != static_cast<int>(Operation::where)) return false;
    const int x = node.args[1];
    return is(node.args[0], Operation::gt) && is(node.args[2], Operation::expm1) && op(node.args[0])->args[0] == x &&
           is_number(op(node.args[0])->args[1], 0.0f) && op(node.args[2])->args[0] == x;
  }

  void bury_unused() {
    std::vector<int> left = uses();
    for (int i = static_cast<int>(nodes_.size()) - 1; i >= 0; i--) {
      if (left[leaves_ + i] > 0) continue;
      nodes_[i].code = kDead;
      for (int a = 0; a < nodes_[i].arguments; a++) left[nodes_[i].args[a]]--;
    }
  }

  int new_register() {
    if (!free_.empty()) {
      int reused = free_.back();
      free_.pop_back();
      return reused;
    }
    return out_.registers++;
  }

  void place_leaves() {
    size_t floats = 0, next = 0;
    for (const Leaf& leaf : map_.leaves) {
      if (auto* vector = std::get_if<Floats>(&leaf)) floats += vector->size();
      else if (std::get_if<float>(&leaf)) floats++;
    }
    out_.constants = AlignedFloats(floats);
    for (const Leaf& leaf : map_.leaves) {
      MapLeaf placed{{nullptr, 0, nullptr}, false};
      int slot_number = -1;
      FieldSlot field_slot{-1, 0, 0};
      if (auto* slot = std::get_if<Slot>(&leaf)) {
        slot_number = slots_.number(*slot);
        placed.broadcast = slot->count != count_;
      } else if (auto* field = std::get_if<FieldSlot>(&leaf)) {
        field_slot = *field;
        placed.broadcast = field->count != count_;
      } else {
        auto* vector = std::get_if<Floats>(&leaf);
        const float* number = std::get_if<float>(&leaf);
        float* constants = out_.constants.data() + next;
        next += vector ? vector->size() : 1;
        if (vector) std::copy(vector->begin(), vector->end(), constants);
        else *constants = *number;
        placed = MapLeaf{{constants, 0, nullptr}, !vector};
      }
      out_.leaves.push_back(placed);
      out_.leaf_slots.push_back(slot_number);
      out_.fields.push_back(field_slot);
      out_.leaf_registers.push_back(placed.broadcast ? out_.registers++ : -1);
    }
  }

  // A result takes the register of an argument that nothing needs any more: operations work number by number.
  void place_operations() {
    std::vector<int> left = uses(), place(nodes_.size(), -1);
    for (size_t i = 0; i < nodes_.size(); i++) {
      const Node& node = nodes_[i];
      if (node.code == kDead) continue;
      MapOp made{node.code, -1, {}};
      for (int a = 0; a < kMostArguments; a++) {
        const int arg = node.args[a < node.arguments ? a : 0];
        made.args[a] = arg < leaves_ ? ~arg : place[arg - leaves_];
        if (a < node.arguments && --left[arg] == 0 && arg >= leaves_) free_.push_back(place[arg - leaves_]);
      }
      if (i + 1 < nodes_.size()) made.out = place[i] = new_register();
      out_.ops.push_back(made);
    }
  }

  const Map& map_;
  const int count_;
  SlotNumbers& slots_;
  const int leaves_;
  std::vector<Node> nodes_;
  std::vector<int> free_;
  CompiledMap out_;
};

}  // namespace

CompiledMap compile_map(const Map& map, int count, SlotNumbers& slots) { return Compiler(map, count, slots).run(); }

}  // namespace pixelfast
