// Selecting: a sample brackets each cut, one pass counts what lies above the bracket,
// sorts what lies in it into bins, and holds it where it takes many values. Sampling
// decides only how fast: where it misled, or where more equal magnitudes than can be held
// lie at the cut, another pass follows.
#include "passes/select.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>

#include "cards/card_measure.hpp"
#include "cards/card_pool.hpp"
#include "core/error.hpp"
#include "engine/reading.hpp"
#include "engine/search.hpp"
#include "engine/slices.hpp"
#include "passes/ranking.hpp"
#include "passes/sampling.hpp"

namespace tvmerge {
namespace {

constexpr unsigned kMostPasses = 32;
constexpr std::uint64_t kBlockElements = 2 * kTileElements;
// Of keys that take many values a bracket has fewer. Of those that take few it may have
// most, but their bins tell them apart.
constexpr std::uint64_t kElementsAHeld = 16;
// What holding a key may take: lists double as they grow.
constexpr std::uint64_t kBytesAHeld = 2 * sizeof(Key);

// One job's searches, and how many of its slices this pass has still to see.
struct Progressing {
  std::vector<Search> searches;
  std::mutex mutex;
  std::uint64_t slices_left = 0;

  [[nodiscard]] bool done() const {
    return std::all_of(searches.begin(), searches.end(),
                       [](const Search& search) { return search.done(); });
  }
};

// A thread's memory, in this order: slices of all sources, their keys, those of a block
// that lie in a bracket, and the counts of every query's bins.
class Scratch {
 public:
  explicit Scratch(const std::vector<SelectJob>& jobs) {
    for (const SelectJob& job : jobs) {
      read_bytes_ = std::max(read_bytes_, slice_bytes(job.sources, kSelectElements));
      queries_ = std::max(queries_, job.queries.size());
    }
  }
  [[nodiscard]] std::uint64_t bytes() const {
    return read_bytes_ + kKeyBytes + kInsideBytes +
           queries_ * 3 * Search::kBins * sizeof(std::uint32_t);
  }
  Key* keys(unsigned char* memory) const {
    return reinterpret_cast<Key*>(memory + read_bytes_);
  }
  Key* inside(unsigned char* memory) const {
    return reinterpret_cast<Key*>(memory + read_bytes_ + kKeyBytes);
  }
  Search::Found nothing_found(unsigned char* memory, std::size_t query) const {
    auto* const bins = reinterpret_cast<std::uint32_t*>(memory + read_bytes_ + kKeyBytes +
                                                        kInsideBytes) +
                       query * 3 * Search::kBins;
    return {0, 0, bins, bins + Search::kBins, bins + 2 * Search::kBins, true};
  }

 private:
  static constexpr std::uint64_t kKeyBytes = kSelectElements * sizeof(Key);
  static constexpr std::uint64_t kInsideBytes =
      (kBlockElements + kTileElements) * sizeof(Key);

  std::uint64_t read_bytes_ = 0;
  std::size_t queries_ = 0;
};

class Selecting {
 public:
  Selecting(const std::vector<std::string>& paths, const std::vector<SelectJob>& jobs,
            const Options& options)
      : paths_(paths),
        jobs_(jobs),
        options_(options),
        kernels_(kernels_for(options.isa)),
        scratch_(jobs),
        space_(options, scratch_.bytes()),
        spare_bytes_(options.buffer_bytes / space_.threads - scratch_.bytes()),
        may_hold_(spare_bytes_ / kBytesAHeld * space_.threads) {
    for (const SelectJob& job : jobs) {
      check(job);
      states_.push_back(std::make_unique<Progressing>());
      const std::uint64_t slices = (job.elements + kSelectElements - 1) / kSelectElements;
      for (const Query& query : job.queries)
        states_.back()->searches.emplace_back(query.rank, job.elements, slices);
    }
  }

  std::vector<std::vector<Cut>> run() {
    std::vector<std::size_t> open = unfinished();
    sample(open);
    for (unsigned passes = 0; !open.empty(); open = unfinished()) {
      // A bracket shrinks to a few hundred thousandths with every pass: this many mean
      // that something counts wrong.
      if (++passes > kMostPasses)
        throw Error(ErrorKind::card, "a selection does not end: its counts are wrong");
      pass(open);
    }
    std::vector<std::vector<Cut>> cuts;
    for (const auto& state : states_) {
      cuts.emplace_back();
      for (const Search& search : state->searches) cuts.back().push_back(search.cut());
    }
    return cuts;
  }

 private:
  void check(const SelectJob& job) const {
    const auto count = static_cast<std::int32_t>(job.sources.size());
    bool good = count > 1;
    for (const Source& source : job.sources) good = good && source.file < paths_.size();
    for (const Query& query : job.queries)
      good =
          good && query.source >= kVariance && query.source != 0 && query.source < count;
    if (job.factors) {
      const RowFactors& rows = *job.factors;
      good = good && options_.cards.empty() && rows.row > 0 &&
             rows.factors.size() * rows.row == job.elements;
    }
    if (!good) throw Error(ErrorKind::config, "a query names no source that exists");
  }

  [[nodiscard]] std::vector<std::size_t> unfinished() const {
    std::vector<std::size_t> open;
    for (std::size_t j = 0; j < jobs_.size(); ++j)
      if (!states_[j]->done()) open.push_back(j);
    return open;
  }

  // Runs body(ranking, share, memory) on every thread, for `count` units.
  template <typename Body>
  void run_units(const std::vector<std::size_t>& open, std::uint64_t count, Body&& body) {
    if (count == 0) return;
    Extents extents(paths_.size());
    for (const std::size_t j : open) extents.add(jobs_[j].sources, jobs_[j].elements);
    reserve_descriptors(paths_.size());
    const DirectFiles direct = direct_files(options_, paths_);
    Inputs inputs(paths_, extents, options_, {direct.begin(), direct.end()});
    inputs.run(
        count, space_.threads,
        [&](unsigned /*thread*/, Share& share) {
          const Buffer memory = make_buffer(scratch_.bytes());
          if (!memory) return false;
          std::vector<DigestLanes> no_digests;
          const Reader reader(inputs, kernels_, memory.get(), no_digests, share);
          Ranking ranking(kernels_, reader, scratch_.keys(memory.get()));
          body(ranking, share, memory.get());
          return true;
        },
        options_.progress);
  }

  void sample(const std::vector<std::size_t>& open) {
    run_units(open, open.size(),
              [&](Ranking& ranking, Share& share, unsigned char* /*memory*/) {
                while (const auto unit = share.next())
                  sample_job(jobs_[open[*unit]], spare_bytes_, ranking,
                             states_[open[*unit]]->searches);
              });
  }

  void pass(const std::vector<std::size_t>& open) {
    options_.cards.empty() ? pass_here(open) : pass_on_cards(open);
    locate_ties(open);
  }

  void pass_on_cards(const std::vector<std::size_t>& open) {
    std::vector<OpenSearches> searches;
    searches.reserve(open.size());
    for (const std::size_t j : open) searches.push_back({jobs_[j], states_[j]->searches});
    scan_on_cards(paths_, searches, options_);
  }

  void pass_here(const std::vector<std::size_t>& open) {
    SliceTable table;
    for (const std::size_t j : open) {
      const std::uint64_t before = table.count();
      table.add(jobs_[j].elements, kSelectElements);
      states_[j]->slices_left = table.count() - before;
    }
    run_units(open, table.count(),
              [&](Ranking& ranking, Share& share, unsigned char* memory) {
                scan_slices(open, table, ranking, share, memory);
              });
  }

  // One thread's slices. What it finds of a job is handed over when it goes to the next.
  void scan_slices(const std::vector<std::size_t>& open, const SliceTable& table,
                   Ranking& ranking, Share& share, unsigned char* memory) const {
    std::vector<Search::Found> found;
    std::size_t current = SIZE_MAX;
    std::uint64_t seen = 0;
    const auto hand_over = [&] {
      if (current != SIZE_MAX) this->hand_over(*states_[current], found, seen);
      seen = 0;
    };
    while (const auto unit = share.next()) {
      const SliceTable::Slice slice = table.at(*unit);
      const std::size_t j = open[slice.job];
      if (j != current) {
        hand_over();
        current = j;
        found.assign(jobs_[j].queries.size(), {});
        for (std::size_t q = 0; q < found.size(); ++q)
          found[q] = nothing_found(memory, q, j);
      }
      ranking.look_at(jobs_[j], slice.start, slice.length);
      scan_slice(j, ranking, slice, found, memory);
      ++seen;
    }
    hand_over();
  }

  Search::Found nothing_found(unsigned char* memory, std::size_t query,
                              std::size_t j) const {
    const Search& search = states_[j]->searches[query];
    Search::Found found = scratch_.nothing_found(memory, query);
    found.may_hold = jobs_[j].elements / kElementsAHeld;
    if (search.done()) return found;
    for (std::uint32_t* const held : {found.bins, found.ones, found.noughts})
      std::fill_n(held, search.bin_count(), 0u);
    return found;
  }

  // Queries of the same source come one behind the other, and share its keys: of blocks
  // that stay in the nearest cache until all queries have seen them.
  void scan_slice(std::size_t j, Ranking& ranking, const SliceTable::Slice& slice,
                  std::vector<Search::Found>& found, unsigned char* memory) const {
    const SelectJob& job = jobs_[j];
    std::vector<Search>& searches = states_[j]->searches;
    std::vector<std::uint64_t> ties(found.size());
    for (std::uint64_t at = 0; at < slice.length; at += kBlockElements) {
      const std::uint64_t count = std::min(kBlockElements, slice.length - at);
      const Key* keys = nullptr;
      std::int32_t source = 0;
      for (std::size_t q = 0; q < found.size(); ++q) {
        if (searches[q].done()) continue;
        if (keys == nullptr || job.queries[q].source != source) {
          source = job.queries[q].source;
          keys = ranking.keys(job.queries[q], at, count);
        }
        ties[q] += scan_block(keys, count, slice.number, searches[q], found[q], memory);
      }
    }
    for (std::size_t q = 0; q < found.size(); ++q)  // a slice is one thread's
      if (!searches[q].done()) searches[q].note_ties(slice.number, ties[q]);
  }

  // Returns how many ties there are.
  std::uint64_t scan_block(const Key* keys, std::uint64_t count, std::uint64_t slice,
                           Search& search, Search::Found& found,
                           unsigned char* memory) const {
    Key* const inside = scratch_.inside(memory);
    KeyScan scan = search.scan();
    const std::size_t others = kernels_.scan_keys(keys, count, scan, inside);
    const auto add = [&](Key key, std::uint64_t times) {
      const std::size_t bin = search.bin(key);
      found.bins[bin] += static_cast<std::uint32_t>(times);
      found.ones[bin] |= search.within_bin(key);
      found.noughts[bin] |= search.missing_in_bin(key);
    };
    for (std::size_t i = 0; i < others; ++i) add(inside[i], 1);
    if (scan.ties > 0 && scan.low <= scan.tie && scan.tie <= scan.high)
      add(scan.tie, scan.ties);
    found.above += scan.above;
    found.holds_all = found.holds_all && others <= found.may_hold && take_room(others);
    if (found.holds_all) {
      search.hold(slice, inside, others);
      found.may_hold -= others;
    }
    if (search.counts_zeros()) {
      KeyScan zeros{0, 0, 0};
      kernels_.scan_keys(keys, count, zeros, inside);
      found.zeros += zeros.ties;
    }
    return scan.ties;
  }

  [[nodiscard]] bool take_room(std::uint64_t keys) const {
    std::uint64_t left = may_hold_;
    while (left >= keys)
      if (may_hold_.compare_exchange_weak(left, left - keys)) return true;
    return false;
  }

  void hand_over(Progressing& state, std::vector<Search::Found>& found,
                 std::uint64_t slices) const {
    const std::lock_guard<std::mutex> lock(state.mutex);
    for (std::size_t q = 0; q < found.size(); ++q) {
      if (!state.searches[q].done()) state.searches[q].add(found[q]);
    }
    state.slices_left -= slices;
    if (state.slices_left != 0) return;
    for (Search& search : state.searches) {
      if (search.done()) continue;
      const std::uint64_t held = search.held();
      search.narrow();
      may_hold_ += held;
    }
  }

  // A cut through equal magnitudes lies in a known slice: looks there for its place.
  void locate_ties(const std::vector<std::size_t>& open) {
    std::vector<std::pair<std::size_t, std::size_t>> places;  // job and query
    for (const std::size_t j : open) {
      for (std::size_t q = 0; q < jobs_[j].queries.size(); ++q)
        if (states_[j]->searches[q].awaits_place()) places.emplace_back(j, q);
    }
    run_units(open, places.size(),
              [&](Ranking& ranking, Share& share, unsigned char* /*memory*/) {
                while (const auto unit = share.next()) {
                  const auto [j, q] = places[*unit];
                  locate_tie(jobs_[j], jobs_[j].queries[q], ranking,
                             states_[j]->searches[q]);
                }
              });
  }

  static void locate_tie(const SelectJob& job, const Query& query, Ranking& ranking,
                         Search& search) {
    SelectJob alone{job.sources, job.elements, {query}, job.factors};
    if (query.source != kVariance) {  // the others are not looked at
      alone.sources = {job.sources[0],
                       job.sources[static_cast<std::size_t>(query.source)]};
      alone.queries[0].source = 1;
    }
    const std::uint64_t start = search.tie_slice() * kSelectElements;
    const std::uint64_t count = std::min(kSelectElements, job.elements - start);
    ranking.look_at(alone, start, count);
    search.place(ranking.keys(alone.queries[0], 0, count), start);
  }

  const std::vector<std::string>& paths_;
  const std::vector<SelectJob>& jobs_;
  const Options& options_;
  const Kernels& kernels_;
  const Scratch scratch_;
  const Workspace space_;
  const std::uint64_t spare_bytes_;              // of each thread's buffers
  mutable std::atomic<std::uint64_t> may_hold_;  // keys, all searches together
  std::vector<std::unique_ptr<Progressing>> states_;
};

}  // namespace

std::vector<std::vector<Cut>> select(const std::vector<std::string>& inputs,
                                     const std::vector<SelectJob>& jobs,
                                     const Options& options) {
  return Selecting(inputs, jobs, options).run();
}

}  // namespace tvmerge
