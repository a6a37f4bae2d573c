// The search for one cut: a bracket of keys that shrinks from pass to pass. Reads
// nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/job.hpp"
#include "kernels/kernels.hpp"

namespace tvmerge {

class Search {
 public:
  // Few enough for a near cache: where the bin with the cut holds several keys, those
  // that were held of it tell more, or another pass has to.
  static constexpr std::size_t kBins = std::size_t{1} << 14;
  static constexpr Key kHighest = 0x7fffffffu;

  Search(const Rank& rank, std::uint64_t elements, std::uint64_t slices);

  [[nodiscard]] bool done() const { return state_ == State::done; }
  [[nodiscard]] Cut cut() const { return cut_; }

  // Brackets the cut by what a sample of the keys, taken evenly, says of it.
  void bracket(std::vector<Key>& sample);

  // What a pass counts, and in which bin it puts a key of the bracket.
  [[nodiscard]] KeyScan scan() const { return {low_, high_, tie_}; }
  [[nodiscard]] unsigned shift() const { return shift_; }
  [[nodiscard]] std::size_t bin(Key key) const { return (key - low_) >> shift_; }
  // The bits of a key that its bin does not tell.
  [[nodiscard]] std::uint32_t within_bin(Key key) const { return key & within_; }
  [[nodiscard]] std::uint32_t missing_in_bin(Key key) const { return ~key & within_; }
  [[nodiscard]] std::size_t bin_count() const {
    return (static_cast<std::size_t>(high_ - low_) >> shift_) + 1;
  }
  void note_ties(std::uint64_t slice, std::uint64_t count) { ties_[slice] = count; }
  // Keys of the bracket but for the tie, until the search is narrowed; a slice is one
  // thread's.
  void hold(std::uint64_t slice, const Key* keys, std::size_t count) {
    held_[slice].insert(held_[slice].end(), keys, keys + count);
  }
  [[nodiscard]] std::uint64_t held() const;
  // Whether it also needs to know how many keys are 0.
  [[nodiscard]] bool counts_zeros() const { return share_.has_value(); }

  // What one thread has counted.
  struct Found {
    std::uint64_t above = 0, zeros = 0;
    std::uint32_t* bins = nullptr;  // bin_count() of them
    // By bin, which bits are ones in any of its keys and which are zeros in any, of those
    // that the bin does not tell; null: not known.
    std::uint32_t *ones = nullptr, *noughts = nullptr;
    // Whether all keys that it has seen of the bracket are held, and how many more may
    // be.
    bool holds_all = false;
    std::uint64_t may_hold = 0;
  };
  void add(const Found& found);

  // After all have been added: done, or a smaller bracket, or only the place within a
  // slice is not known yet. Nothing is held any more.
  void narrow();
  [[nodiscard]] bool awaits_place() const { return state_ == State::placing; }
  [[nodiscard]] std::uint64_t tie_slice() const { return tie_slice_; }
  // `keys` are those of the slice, which begins with element `start`.
  void place(const Key* keys, std::uint64_t start);

 private:
  enum class State : std::uint8_t { scanning, placing, done };

  // A rank that was given as a share, where so many keys are 0.
  [[nodiscard]] std::uint64_t rank_of_share(std::uint64_t zeros) const;
  void settle(std::uint64_t rank);
  void search_in(Key low, Key high, Key tie);
  void finish(Key key, std::uint64_t ties_end);
  void forget_counts();  // and what they took
  // The cut takes `count` elements of those in [low, high].
  void narrow_to(Key low, Key high, std::uint64_t count);
  // `count` elements with this key belong to the cut, of `all` that have it.
  void found_key(Key key, std::uint64_t count, std::uint64_t all);
  [[nodiscard]] std::uint64_t ties_of(Key key, std::uint64_t slice) const;

  std::uint64_t rank_ = 0, elements_;
  std::optional<double> share_;  // until the elements that are not 0 are counted
  State state_ = State::scanning;
  Key low_ = 0, high_ = kHighest, tie_ = 0;
  unsigned shift_ = 0;
  std::uint32_t within_ = 0;
  std::uint64_t above_ = 0, zeros_ = 0;
  std::vector<std::uint32_t> bins_, ones_, noughts_;
  std::vector<std::uint64_t> ties_;     // by slice
  std::vector<std::vector<Key>> held_;  // by slice
  bool holds_all_ = true;
  std::uint64_t tie_slice_ = 0, ties_within_ = 0;
  Cut cut_;
};

}  // namespace tvmerge
