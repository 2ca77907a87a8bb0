#include "isa.h"

#include <cstdlib>
#include <stdexcept>

namespace pixelfast {
namespace {

struct Candidate {
  const char* name;
  const Kernels* kernels;  // null: not in this build
  bool supported;
};

std::vector<Candidate> candidates() {
  bool avx2 = false, avx512 = false;
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
#ifdef PIXELFAST_EMULATE  // see setup.py
  avx512 = true;
#endif
  return {{"avx512", avx512_kernels(), avx512},
          {"avx2", avx2_kernels(), avx2},
          {"neon", neon_kernels(), true},
          {"scalar", scalar_kernels(), true}};
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : candidates())
    if (candidate.kernels && candidate.supported) names.push_back(candidate.name);
  return names;
}

const Kernels* choose_kernels(const std::string& name) {
  const char* variable = std::getenv("PIXELFAST_ISA");
  const std::string wanted = !name.empty() ? name : variable ? variable : "";
  std::string here;
  for (const Candidate& candidate : candidates()) {
    const bool usable = candidate.kernels && candidate.supported;
    if (usable && (wanted.empty() || wanted == candidate.name)) return candidate.kernels;
    if (usable) here += std::string(here.empty() ? "" : ", ") + candidate.name;
  }
  throw std::invalid_argument("the instruction set \"" + wanted + "\" (isa= or PIXELFAST_ISA) " +
                              "is unknown, or this processor or this build lacks it: here there are " + here);
}

}  // namespace pixelfast
