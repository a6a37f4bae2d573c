// A low-rank product added to a matrix in memory: what a LoRA adapter does to a weight.
#pragma once

#include <string>

#include "kernels/kernels.hpp"

namespace tvmerge {

// On so many threads: the same bits for any number of them.
void add_low_rank(const LowRankSlice& whole, unsigned threads, const std::string& isa);

}  // namespace tvmerge
