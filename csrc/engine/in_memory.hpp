// One weighted sum of tensors that lie in memory already: the process's, or a card's.
#pragma once

#include <string>

#include "kernels/kernels.hpp"

namespace tvmerge {

// By the processor, on so many threads; `whole.edits` is not looked at. The output may be
// one of the terms.
void combine_in_memory(const CombineSlice& whole, unsigned threads,
                       const std::string& isa);

// On card number `card`, as the next work of a stream (a cudaStream_t; null is the
// default one): returns before it is done. Throws Error(card) in a build without CUDA.
void combine_on_card(const CombineSlice& whole, int card, void* stream);

}  // namespace tvmerge
