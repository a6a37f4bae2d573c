// Deltas of which some elements take part, of all kinds.
#pragma once

#include "checks.hpp"

namespace kernel_tests {

// Several inputs, the first of them the base, and as many parts as you like.
struct Deltas {
  Deltas(std::size_t count, std::size_t term_count, std::size_t part_count,
         const Dtype* only, Kind kind, Random& random);
  // What of `limits` belongs to the elements [start, start + length).
  [[nodiscard]] std::vector<std::uint32_t> limits_from(std::size_t start,
                                                       std::size_t length) const;
  [[nodiscard]] std::string name() const;

  std::size_t count;
  Kind kind;
  Inputs inputs;
  std::vector<Part> parts;
  std::uint64_t first;  // of the tensor, where the slice begins
  Memory limits;
  bool simple = false;
};

}  // namespace kernel_tests
