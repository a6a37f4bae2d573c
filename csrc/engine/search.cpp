#include "engine/search.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <numeric>

namespace tvmerge {

Search::Search(const Rank& rank, std::uint64_t elements, std::uint64_t slices)
    : elements_(elements), ties_(slices), held_(slices) {
  search_in(0, kHighest, 0);
  if (const double* const share = std::get_if<double>(&rank))
    share_ = std::clamp(*share, 0.0, 1.0);
  else
    settle(std::get<std::uint64_t>(rank));
  if (elements == 0) settle(0);
}

std::uint64_t Search::rank_of_share(std::uint64_t zeros) const {
  return static_cast<std::uint64_t>(share_.value_or(0) *
                                    static_cast<double>(elements_ - zeros));
}

void Search::settle(std::uint64_t rank) {
  rank_ = rank;
  share_.reset();
  if (rank == 0) finish(UINT32_MAX, 0);
  if (rank > elements_) finish(0, elements_);
}

void Search::search_in(Key low, Key high, Key tie) {
  shift_ = 0;
  while ((high >> shift_) - (low >> shift_) >= kBins) ++shift_;
  low_ = low >> shift_ << shift_;
  within_ = (std::uint32_t{1} << shift_) - 1;
  high_ = high;
  tie_ = tie;
  above_ = 0;
  forget_counts();
  holds_all_ = true;
}

void Search::finish(Key key, std::uint64_t ties_end) {
  cut_ = {key, ties_end};
  state_ = State::done;
  forget_counts();
  ties_ = std::vector<std::uint64_t>();
  held_ = std::vector<std::vector<Key>>();
}

// Clearing vectors, or giving them empty lists, would keep their memory.
void Search::forget_counts() {
  for (std::vector<std::uint32_t>* const counts : {&bins_, &ones_, &noughts_})
    *counts = std::vector<std::uint32_t>();
  for (std::vector<Key>& keys : held_) keys = std::vector<Key>();
}

std::uint64_t Search::held() const {
  std::uint64_t count = 0;
  for (const std::vector<Key>& keys : held_) count += keys.size();
  return count;
}

void Search::bracket(std::vector<Key>& sample) {
  if (done() || sample.empty()) return;
  const auto size = static_cast<double>(sample.size());
  const bool whole = sample.size() == elements_;
  if (share_) {
    const auto zeros = std::count(sample.begin(), sample.end(), Key{0});
    const double held = static_cast<double>(elements_) / size;
    rank_ = rank_of_share(static_cast<std::uint64_t>(static_cast<double>(zeros) * held));
    if (whole) settle(rank_);
    if (done()) return;
  }
  const double share = static_cast<double>(rank_) / static_cast<double>(elements_);
  // Eight standard deviations of a fair sample: neighbours are alike, so it is less fair.
  const double margin = whole ? 0 : 8 * std::sqrt(size * share * (1 - share)) + 2;
  const double middle = whole ? static_cast<double>(rank_ - 1) : size * share;
  // What is found of the order already shortens the way to the next key.
  auto first = sample.begin(), last = sample.end();
  const auto key_at = [&](double place) {
    const auto n = sample.begin() + static_cast<std::ptrdiff_t>(place);
    std::nth_element(first, n, last, std::greater<>{});
    return n;
  };
  Key low = 0, high = kHighest;
  if (middle - margin >= 0) high = *(first = key_at(middle - margin));
  if (middle + margin < size) {
    const auto n = key_at(middle + margin);
    low = *n;
    last = n + 1;
  }
  search_in(low, high, *key_at(std::min(middle, size - 1)));
}

void Search::add(const Found& found) {
  above_ += found.above;
  zeros_ += found.zeros;
  holds_all_ = holds_all_ && found.holds_all;
  bins_.resize(bin_count());
  ones_.resize(bin_count());
  noughts_.resize(bin_count());
  for (std::size_t b = 0; b < bins_.size(); ++b) {
    bins_[b] += found.bins[b];
    ones_[b] |= found.ones == nullptr ? within_ : found.ones[b];
    noughts_[b] |= found.ones == nullptr ? within_ : found.noughts[b];
  }
}

void Search::narrow() {
  if (share_) {
    settle(rank_of_share(zeros_));
    if (done()) return;
  }
  if (rank_ <= above_) return search_in(high_ + 1, kHighest, high_ + 1);
  std::uint64_t before = above_;
  for (std::size_t b = bins_.size(); b-- > 0;) {
    const std::uint64_t here = bins_[b];
    if (before + here < rank_) {
      before += here;
      continue;
    }
    const Key key = low_ + static_cast<Key>(b << shift_);
    // Deltas of narrow dtypes take few values: most bins hold one key alone.
    if ((ones_[b] & noughts_[b]) == 0)
      return found_key(key | ones_[b], rank_ - before, here);
    return narrow_to(key, std::min<Key>(high_, key | within_), rank_ - before);
  }
  search_in(0, low_ - 1, 0);
}

void Search::narrow_to(Key low, Key high, std::uint64_t count) {
  if (!holds_all_) return search_in(low, high, low);
  std::vector<Key> keys;
  for (const std::vector<Key>& of_slice : held_)
    std::copy_if(of_slice.begin(), of_slice.end(), std::back_inserter(keys),
                 [=](Key key) { return low <= key && key <= high; });
  std::sort(keys.begin(), keys.end(), std::greater<>{});
  std::uint64_t ties = 0;
  if (low <= tie_ && tie_ <= high)
    ties = std::accumulate(ties_.begin(), ties_.end(), std::uint64_t{0});
  for (auto next = keys.begin();;) {
    const bool tied = ties > 0 && (next == keys.end() || *next < tie_);
    const Key key = tied ? tie_ : *next;
    const auto behind =
        tied ? next : std::upper_bound(next, keys.end(), key, std::greater<>{});
    const std::uint64_t all = tied ? ties : static_cast<std::uint64_t>(behind - next);
    if (count <= all) return found_key(key, count, all);
    count -= all;
    next = behind;
    if (tied) ties = 0;
  }
}

void Search::found_key(Key key, std::uint64_t count, std::uint64_t all) {
  if (count == all) return finish(key, elements_);
  if (key != tie_ && !holds_all_) return search_in(key, key, key);
  std::uint64_t here = ties_of(key, tie_slice_ = 0);
  for (; count > here; here = ties_of(key, ++tie_slice_)) count -= here;
  forget_counts();
  ties_within_ = count;
  cut_.key = key;
  state_ = State::placing;
}

std::uint64_t Search::ties_of(Key key, std::uint64_t slice) const {
  if (key == tie_) return ties_[slice];
  const std::vector<Key>& keys = held_[slice];
  return static_cast<std::uint64_t>(std::count(keys.begin(), keys.end(), key));
}

void Search::place(const Key* keys, std::uint64_t start) {
  std::uint64_t at = 0;
  for (std::uint64_t left = ties_within_; left > 0; ++at) left -= keys[at] == cut_.key;
  finish(cut_.key, start + at);
}

}  // namespace tvmerge
