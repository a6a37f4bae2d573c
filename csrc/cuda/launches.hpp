// The kernels, as card.cu calls them: each asks `stream` for one launch or a few.
#pragma once

#include <cuda_runtime.h>

#include "cards/card.hpp"

namespace tvmerge::cuda {

// What fits into a kernel's parameters.
constexpr unsigned kMostTerms = 64;
constexpr unsigned kMostCoefficients = 1024;

void combine(const CombineSlice& slice, cudaStream_t stream);
void consensus(const ConsensusSlice& slice, cudaStream_t stream);
void digest(const std::vector<CardDigest>& ranges, cudaStream_t stream);
void measure(const MeasureSlice& slice, void* room, cudaStream_t stream);
void scan(const CardScan& scan, cudaStream_t stream);
void delta_sums(const DeltaSlice& slice, bool counted, void* room, cudaStream_t stream);

}  // namespace tvmerge::cuda
