// Digests, and counts of keys.
#include <algorithm>

#include "cuda/launches.hpp"
#include "core/digest.hpp"
#include "parts.hpp"

namespace kernel_tests {
namespace {

// Ranges of some files; those of one file add up.
void test_digest(const std::vector<std::size_t>& sizes, Random& random) {
  constexpr std::size_t kFiles = 3;
  std::vector<Memory> data;
  std::vector<CardDigest> ranges;
  const Memory found(kFiles * sizeof(DigestLanes)),
      expected(kFiles * sizeof(DigestLanes));
  for (const std::size_t size_bytes : sizes) {
    const Memory& one = data.emplace_back(size_bytes);
    for (std::size_t k = 0; k < size_bytes; ++k)
      one.data()[k] = static_cast<unsigned char>(random.bits());
    const std::uint64_t position = random.bits() >> 20;
    const std::size_t lane = random.below(kFiles) * kDigestLanes;
    ranges.push_back(
        {one.data(), size_bytes, position, found.as<std::uint64_t>() + lane});
    // They add to what is there.
    generic_kernels().digest(one.data(), size_bytes, position,
                             expected.as<std::uint64_t>() + lane);
  }
  const std::string name = "digest of " + std::to_string(sizes.size()) +
                           " ranges, the first " + std::to_string(sizes.front()) +
                           " bytes";
  cuda::digest(ranges, stream());
  finish(name);
  check_bytes(found.data(), expected.data(), found.size_bytes(), name);
}

void test_keys(std::size_t count, std::size_t term_count, const Dtype* only, Kind kind,
               Random& random) {
  const Inputs inputs(dtypes_of(term_count, only, random), count, kind, random);
  const std::int32_t term =
      random.one_in(3) ? -1 : static_cast<std::int32_t>(1 + random.below(term_count - 1));
  const RankedSlice slice{inputs.terms.data(), term_count, term, count};
  std::vector<Key> keys(count);
  generic_kernels().ranked_keys(slice, keys.data());
  const auto any = [&] { return keys[random.below(count)]; };
  const auto [low, high] = std::minmax({any(), any()});
  constexpr std::size_t kMostBins = 4096;
  unsigned shift = 0;
  while ((high - low) >> shift >= kMostBins) ++shift;
  const std::size_t bins = ((high - low) >> shift) + 1;
  const std::size_t stretches = (count + kSumElements - 1) / kSumElements;
  const Memory above(8), ties(stretches * 4), binned(bins * 4);
  for (const Memory* memory : {&above, &ties, &binned})
    std::memset(memory->data(), 0, memory->size_bytes());
  const Key tie = any();
  std::uint64_t expected_above = 0;
  std::vector<std::uint32_t> expected_ties(stretches), expected_bins(bins);
  for (std::size_t i = 0; i < count; ++i) {
    if (keys[i] > high) ++expected_above;
    if (keys[i] == tie) ++expected_ties[i / kSumElements];
    if (keys[i] >= low && keys[i] <= high) ++expected_bins[(keys[i] - low) >> shift];
  }
  const std::string name = "scan: " + std::to_string(count) + " elements of " +
                           std::to_string(term_count) + " inputs, data " +
                           std::to_string(static_cast<int>(kind));
  cuda::scan({slice, low, high, tie, shift, above.as<std::uint64_t>(),
              ties.as<std::uint32_t>(), binned.as<std::uint32_t>()},
             stream());
  finish(name);
  check_bytes(above.data(), &expected_above, 8, name + ": above");
  check_bytes(ties.data(), expected_ties.data(), stretches * 4, name + ": ties");
  check_bytes(binned.data(), expected_bins.data(), bins * 4, name + ": bins");
}

}  // namespace

void test_scan(Random& random, std::size_t one_in) {
  for (std::size_t size = 1; size < 700; ++size) {
    if (is_chosen(random, one_in)) test_digest({size}, random);
  }
  for (const std::size_t size : kLarge) test_digest({size}, random);
  test_digest({(std::size_t{9} << 20) + 70}, random);  // the grid goes round
  for (const std::size_t count : {2, 7, 16, 31, 32, 33, 64, 70, 128, 129}) {
    std::vector<std::size_t> sizes;
    for (std::size_t k = 0; k < count; ++k)
      sizes.push_back(1 + random.below(random.one_in(4) ? 40000 : 300));
    test_digest(sizes, random);
  }
  for (const Kind kind : kKinds) {
    for (const Dtype dtype : kDtypes) {
      for (const std::size_t terms : {2, 3, 4, 5, 9}) {
        const Dtype* const only = random.one_in(2) ? &dtype : nullptr;
        for (const std::size_t count : kSmall) {
          if (is_chosen(random, one_in * 2)) test_keys(count, terms, only, kind, random);
        }
        for (const std::size_t count : kLarge) {
          if (is_chosen(random, one_in * 20)) test_keys(count, terms, only, kind, random);
        }
      }
    }
  }
}

}  // namespace kernel_tests
