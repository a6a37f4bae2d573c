#include "engine/in_memory.hpp"

#include <vector>

#include "engine/pool.hpp"
#include "engine/slices.hpp"

namespace tvmerge {
namespace {

// What a thread takes at once: little enough to share, much enough to hide the taking.
constexpr std::uint64_t kTakenElements = std::uint64_t{256} * 1024;

}  // namespace

void combine_in_memory(const CombineSlice& whole, unsigned threads,
                       const std::string& isa) {
  const Kernels& kernels = kernels_for(isa);
  SliceTable table;
  table.add(whole.count, kTakenElements);
  const auto body = [&](unsigned /*thread*/, Share& share) {
    std::vector<Term> terms(whole.terms, whole.terms + whole.term_count);
    while (const auto unit = share.next()) {
      const SliceTable::Slice slice = table.at(*unit);
      for (std::size_t k = 0; k < terms.size(); ++k) {
        terms[k].data = static_cast<const unsigned char*>(whole.terms[k].data) +
                        slice.start * size_of(terms[k].dtype);
      }
      auto* const out =
          static_cast<unsigned char*>(whole.out) + slice.start * size_of(whole.out_dtype);
      kernels.combine({terms.data(), terms.size(), out, whole.out_dtype, slice.length,
                       nullptr, nullptr, whole.out_dtype});
    }
    return true;
  };
  if (threads <= 1 || table.count() <= 1) {  // a thread costs more than a small tensor
    kernels.combine(whole);
  } else {
    run_threads(table.count(), threads, body, {});
  }
}

}  // namespace tvmerge
