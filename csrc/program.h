// A sampling program as plain data: the structs of contract_structs.h, which pixelfast/ir/contract.py describes.
// It is parsed from a stream of 64-bit words and from arrays of floats, which it refers to (pixelfast/ir/stream.py writes
// them); whatever a malformed stream says, parsing either refuses it or yields a program that no engine can crash on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "contract_structs.h"

namespace pixelfast {

struct ProgramError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

constexpr int arguments_of(Operation operation) { return kArguments[static_cast<int>(operation)]; }

constexpr int modulo(int a, int b) { return ((a % b) + b) % b; }

inline bool everywhere(const Lattice& lattice) { return lattice.row_step == 1 && lattice.col_step == 1; }
inline bool has_row(const Lattice& lattice, int row) {
  return lattice.row_step == 1 || modulo(row, lattice.row_step) == lattice.row_phase;
}
// The first of its columns from `col` on.
inline int column_from(const Lattice& lattice, int col) {
  return lattice.col_step == 1 ? col : col + modulo(lattice.col_phase - col, lattice.col_step);
}

// Throws ProgramError. The program refers to the arrays.
Program parse(const int64_t* words, size_t word_count, const std::vector<Floats>& arrays);

// Throws ProgramError unless every read and write of the program stays inside what it declares. Part of parse().
void validate(const Program& program);
void validate_wave(const Program& program);

}  // namespace pixelfast
