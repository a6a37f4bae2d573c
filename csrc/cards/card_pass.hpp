// One pass over jobs that are only read, on cards.
#pragma once

#include <string>
#include <vector>

#include "cards/flights.hpp"
#include "core/error.hpp"
#include "engine/row_ranks.hpp"

namespace tvmerge {

// Stretches of kSumElements, which are reduced to one result each.
inline std::uint64_t stretches_of(std::uint64_t elements) {
  return (elements + kSumElements - 1) / kSumElements;
}

// Jobs that only read, cut into units, and their files.
class CardPass {
 public:
  CardPass(const std::vector<std::string>& paths, const Options& options)
      : paths_(paths), options_(options), extents_(paths.size()) {}

  // Returns the elements of a unit.
  std::uint64_t add(const std::vector<Source>& sources, std::uint64_t elements) {
    for (const Source& source : sources) {
      if (source.file >= paths_.size())
        throw Error(ErrorKind::config, "a job names no file that exists");
    }
    const std::uint64_t unit = needs.add(sources, elements, options_);
    table_.add(elements, unit);
    extents_.add(sources, elements);
    sources_.push_back(&sources);
    return unit;
  }

  FlightNeeds needs;

  // start(flight, slice) with the slice's sources on the card, land(flight, slice). What
  // was read stays for the run that comes next.
  template <typename Start, typename Land>
  std::vector<std::vector<unsigned char>> run(Start&& start, Land&& land,
                                              bool fresh = false) {
    const DirectFiles direct = direct_files(options_, paths_);
    reserve_descriptors(paths_.size());
    Inputs inputs(paths_, extents_, options_, {direct.begin(), direct.end()});
    const Flights flights(options_, needs, direct);
    if (needs.shared_bytes != 0) flights.clear_shared();
    const Kernels& kernels = kernels_for(options_.isa);
    const auto body = [&](unsigned thread, Share& share) {
      const Buffer own = make_buffer(ranking_bytes);
      if (!own) return false;
      const auto crew = flights.crew(thread);
      std::vector<DigestLanes> no_digests;
      const Reader reader(inputs, kernels, crew->pinned, no_digests, share);
      const RowRanks ranks(inputs, kernels, own.get());
      fly(
          *crew, share,
          [&](Flight& flight, std::uint64_t unit) {
            const SliceTable::Slice slice = table_.at(unit);
            flight.bring(reader, paths_, *sources_[slice.job], slice.start, slice.length,
                         fresh);
            start(flight, slice, ranks);
            return true;
          },
          [&](Flight& flight, std::uint64_t unit) {
            flight.leave(true);
            land(flight, table_.at(unit));
          });
      return true;
    };
    inputs.run(table_.count(), flights.threads(), body, options_.progress);
    return needs.shared_bytes != 0 ? flights.shared()
                                   : std::vector<std::vector<unsigned char>>{};
  }

  std::uint64_t ranking_bytes = 1;

 private:
  const std::vector<std::string>& paths_;
  const Options& options_;
  Extents extents_;
  SliceTable table_;
  std::vector<const std::vector<Source>*> sources_;
};

}  // namespace tvmerge
