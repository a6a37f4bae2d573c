#include "engine/low_rank.hpp"

#include <algorithm>

#include "engine/pool.hpp"
#include "engine/slices.hpp"

namespace tvmerge {
namespace {

// What a thread takes at once: so many rows that reading the right factor, which every
// taking does anew, costs little beside them.
constexpr std::uint64_t kTakenElements = std::uint64_t{256} * 1024;

}  // namespace

void add_low_rank(const LowRankSlice& whole, unsigned threads, const std::string& isa) {
  const Kernels& kernels = kernels_for(isa);
  if (whole.rows == 0 || whole.columns == 0) return;
  SliceTable table;
  table.add(whole.rows, std::max<std::uint64_t>(1, kTakenElements / whole.columns));
  const auto body = [&](unsigned /*thread*/, Share& share) {
    while (const auto unit = share.next()) {
      const SliceTable::Slice rows = table.at(*unit);
      LowRankSlice part = whole;
      part.left += rows.start * whole.rank;
      part.out += rows.start * whole.columns;
      part.rows = rows.length;
      kernels.add_low_rank(part);
    }
    return true;
  };
  if (threads <= 1 || table.count() <= 1) {
    kernels.add_low_rank(whole);
  } else {
    run_threads(table.count(), threads, body, {});
  }
}

}  // namespace tvmerge
