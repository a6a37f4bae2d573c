// One pass of select.cpp on cards: counters and bins of every search lie there, and come
// back when all slices have been seen.
#include <algorithm>
#include <cstring>

#include "cards/card_measure.hpp"
#include "cards/card_pass.hpp"

namespace tvmerge {
namespace {

// What the counters of one pass may take of a card; more jobs take more passes.
constexpr std::uint64_t kMostCounterBytes = std::uint64_t{256} * 1024 * 1024;

// Where one search's counters lie among those of all.
struct Counters {
  std::size_t query;
  std::uint64_t above, zeros, others, ties, bins, end;  // offsets in bytes

  Counters(std::size_t query, const Search& search, std::uint64_t stretches,
           std::uint64_t begin)
      : query(query),
        above(begin),
        zeros(above + sizeof(std::uint64_t)),
        others(zeros + sizeof(std::uint64_t)),
        ties(others + sizeof(std::uint64_t)),
        bins(ties + aligned(stretches * sizeof(std::uint32_t))),
        end(aligned(bins + search.bin_count() * sizeof(std::uint32_t))) {}
};

using JobCounters = std::vector<Counters>;

JobCounters counters_of(const OpenSearches& open, std::uint64_t begin) {
  JobCounters counters;
  for (std::size_t q = 0; q < open.searches.size(); ++q) {
    if (open.searches[q].done()) continue;
    counters.emplace_back(q, open.searches[q], stretches_of(open.job.elements), begin);
    begin = counters.back().end;
  }
  return counters;
}

// The jobs [first, last) of `open`.
void scan_some(const std::vector<std::string>& paths,
               const std::vector<OpenSearches>& open,
               const std::vector<JobCounters>& counters, std::size_t first,
               std::size_t last, const Options& options) {
  CardPass pass(paths, options);
  for (std::size_t j = first; j < last; ++j)
    pass.add(open[j].job.sources, open[j].job.elements);
  pass.needs.shared_bytes = counters[last - 1].back().end;

  const auto cards = pass.run(
      [&](Flight& flight, const SliceTable::Slice& slice, const RowRanks& /*ranks*/) {
        const OpenSearches& held = open[first + slice.job];
        for (const Counters& at : counters[first + slice.job]) {
          const Search& search = held.searches[at.query];
          const KeyScan scan = search.scan();
          unsigned char* const shared = flight.shared;
          const RankedSlice ranked{flight.there.data(), flight.there.size(),
                                   held.job.queries[at.query].source, slice.length};
          auto* const ties = reinterpret_cast<std::uint32_t*>(shared + at.ties) +
                             slice.start / kSumElements;
          flight.stream->scan({ranked, scan.low, scan.high, scan.tie, search.shift(),
                               reinterpret_cast<std::uint64_t*>(shared + at.above), ties,
                               reinterpret_cast<std::uint32_t*>(shared + at.bins)});
          if (!search.counts_zeros()) continue;
          // One bin, of key 0; no key is this tie.
          flight.stream->scan({ranked, 0, 0, UINT32_MAX, 0,
                               reinterpret_cast<std::uint64_t*>(shared + at.others), ties,
                               reinterpret_cast<std::uint32_t*>(shared + at.zeros)});
        }
      },
      [](Flight& /*flight*/, const SliceTable::Slice& /*slice*/) {});

  for (std::size_t j = first; j < last; ++j) {
    const std::uint64_t stretches = stretches_of(open[j].job.elements);
    for (const Counters& at : counters[j]) {
      Search& search = open[j].searches[at.query];
      std::vector<std::uint64_t> ties(stretches);
      for (std::vector<unsigned char> card : cards) {
        Search::Found found;
        std::memcpy(&found.above, card.data() + at.above, sizeof found.above);
        std::uint32_t zeros = 0;
        std::memcpy(&zeros, card.data() + at.zeros, sizeof zeros);
        found.zeros = zeros;
        found.bins = reinterpret_cast<std::uint32_t*>(card.data() + at.bins);
        const auto* const counted =
            reinterpret_cast<const std::uint32_t*>(card.data() + at.ties);
        for (std::uint64_t s = 0; s < stretches; ++s) ties[s] += counted[s];
        search.add(found);
      }
      for (std::uint64_t s = 0; s < stretches; ++s) search.note_ties(s, ties[s]);
      search.narrow();
    }
  }
}

}  // namespace

void scan_on_cards(const std::vector<std::string>& paths,
                   const std::vector<OpenSearches>& open, const Options& options) {
  std::vector<JobCounters> counters;
  std::size_t first = 0;
  std::uint64_t used = 0;
  for (std::size_t j = 0; j < open.size(); ++j) {
    JobCounters next = counters_of(open[j], used);
    if (next.back().end > kMostCounterBytes && j > first) {
      scan_some(paths, open, counters, first, j, options);
      first = j;
      next = counters_of(open[j], 0);
    }
    used = next.back().end;
    counters.push_back(std::move(next));
  }
  if (first < open.size()) scan_some(paths, open, counters, first, open.size(), options);
}

}  // namespace tvmerge
