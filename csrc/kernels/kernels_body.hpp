// The kernels' one source, compiled once per instruction set. The including file defines
// TVMERGE_ISA (a namespace of its own, so that no two copies can be mixed up by the
// linker), TVMERGE_ISA_NAME and TVMERGE_VECTOR_BYTES, and in that namespace the loops
// that compilers do not vectorise well by themselves: product_of_halves and, where the
// processor converts float16 (TVMERGE_HALF), widen_half and narrow_half, and where it
// compresses registers (TVMERGE_COMPRESS), pick_others.
//
// A slice is walked in tiles of kTileElements whose accumulators stay in the first-level
// cache; within a tile each term is one plain loop over one dtype, which the compiler
// vectorises.

#include <cstring>

#include "kernels/kernels.hpp"
#include "kernels/kernels_combine.hpp"
#include "kernels/kernels_consensus.hpp"
#include "kernels/kernels_delta_sums.hpp"
#include "kernels/kernels_digest.hpp"
#include "kernels/kernels_divergence.hpp"
#include "kernels/kernels_lines.hpp"
#include "kernels/kernels_low_rank.hpp"
#include "kernels/kernels_measure.hpp"
#include "kernels/kernels_ranks.hpp"
#include "kernels/kernels_select.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

std::size_t count_different(const void* a, const void* b, std::size_t size_bytes) {
  if (std::memcmp(a, b, size_bytes) == 0) return 0;
  const auto* __restrict x = static_cast<const unsigned char*>(a);
  const auto* __restrict y = static_cast<const unsigned char*>(b);
  std::size_t total = 0;
  for (std::size_t start = 0; start < size_bytes; start += kTile) {
    const std::size_t stop = size_bytes - start < kTile ? size_bytes : start + kTile;
    std::uint32_t found = 0;  // a 32-bit count vectorises better
    for (std::size_t i = start; i < stop; ++i) found += x[i] != y[i] ? 1 : 0;
    total += found;
  }
  return total;
}

constexpr Kernels kKernels{
    TVMERGE_ISA_NAME, combine,      consensus,  measure,    measure_columns, ranked_keys,
    scan_keys,        delta_sums,   count_kept, diverge,    count_different, digest,
    add_low_rank,     draw_numbers, bin_keys,   draw_below, pack_bits,       spread_bits};

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
