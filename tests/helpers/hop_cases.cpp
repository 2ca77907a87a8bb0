// The hand-overs that benchmarks/gpu/latencies.cu times, under the shim: hop_cases NAME ORDER BLOCKS prints what came of it.
#include <iostream>
#include <map>
#include <string>

#include "../../benchmarks/gpu/hops.h"

using namespace pixelfast::cuda;

namespace {

constexpr int kThreads = 64, kTurns = 7;
int failures = 0;

float shifted() { return static_cast<float>((rank() + kTurns) % ranks() * threads() + (thread() + kTurns) % threads()); }
float whole_round() { return rank() == 0 && thread() == 0 ? static_cast<float>(kTurns * ranks()) : -1; }

const std::map<std::string, void (*)()> kCases = {
    {"barrier", [] { failures += cluster_barriers(kTurns) != kTurns; }},
    {"numbers by barrier", [] { failures += numbers_by_barrier(kTurns) != shifted(); }},
    {"numbers by store", [] { failures += numbers_by_store(kTurns) != shifted(); }},
    {"token", [] { const float token = token_by_store(kTurns); failures += whole_round() >= 0 && token != whole_round(); }},
};

}  // namespace

int main(int, char** arguments) {
  try {
    const auto order = static_cast<shim::Order>(std::stoi(arguments[2]));
    const int blocks = std::stoi(arguments[3]);
    shim::Cluster(blocks, kThreads, hop_bytes(blocks, kThreads), order, 5).run([&] {
      prepare_hops();
      kCases.at(arguments[1])();
    });
    std::cout << (failures ? "wrong" : "right") << "\n";
  } catch (const shim::Error& error) {
    std::cout << error.what() << "\n";
  }
  return 0;
}
