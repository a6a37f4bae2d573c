#include "parts.hpp"

#include "core/ops_consensus.hpp"

namespace kernel_tests {
namespace {

// The key of a delta that is there, more often than not.
Cut cut_of(const Deltas& deltas, std::int32_t term, Random& random) {
  std::vector<Key> keys(deltas.count);
  generic_kernels().ranked_keys(
      {deltas.inputs.terms.data(), deltas.inputs.terms.size(), term, deltas.count},
      keys.data());
  // Of those that have the key, the first to be left out is that one, or another, or
  // none.
  const std::size_t place = random.below(deltas.count);
  const std::uint64_t ends[] = {0, deltas.first + place, deltas.first + place,
                                deltas.first + random.below(deltas.count + 1),
                                UINT64_MAX};
  return {keys[place], ends[random.below(5)]};
}

// `simple`: as the kernels for whole tiles have them.
Part part_of(const Deltas& deltas, bool simple, Random& random) {
  const auto source =
      static_cast<std::int32_t>(1 + random.below(deltas.inputs.terms.size() - 1));
  Part part{
      source, 2 * random.unit() - 0.7, random.one_in(3) ? 1 : 1 + random.unit(), {}};
  part.keep.of_variance = !simple && random.one_in(5);
  const std::int32_t ranked = part.keep.of_variance ? -1 : source;
  if (!random.one_in(3)) part.keep.outer = cut_of(deltas, ranked, random);
  if (random.one_in(3)) part.keep.inner = cut_of(deltas, ranked, random);
  if (random.one_in(3)) {
    part.keep.key = random.bits();
    // What an element draws: it is not below itself.
    const std::uint64_t element = deltas.first + random.below(deltas.count);
    part.keep.random_below = ops::draw_of(part.keep.key, element, kTileElements);
    part.keep.row = random.one_in(2) ? 64 : 0;
  }
  if (!simple && random.one_in(4)) part.limit = 0.02 * random.unit();
  return part;
}

}  // namespace

Deltas::Deltas(std::size_t count, std::size_t term_count, std::size_t part_count,
               const Dtype* only, Kind kind, Random& random)
    : count(count),
      kind(kind),
      inputs(dtypes_of(term_count, only, random), count, kind, random),
      first(random.below(3) * 5 * kSumElements),
      limits(part_count * count * sizeof(std::uint32_t)) {
  simple = random.one_in(2);
  for (std::size_t p = 0; p < part_count; ++p)
    parts.push_back(part_of(*this, simple, random));
  for (std::size_t k = 0; k < part_count * count; ++k)
    limits.as<std::uint32_t>()[k] = random.one_in(2) ? UINT32_MAX : 0;
}

std::vector<std::uint32_t> Deltas::limits_from(std::size_t start,
                                               std::size_t length) const {
  std::vector<std::uint32_t> cut;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const std::uint32_t* const begin = limits.as<std::uint32_t>() + p * count + start;
    cut.insert(cut.end(), begin, begin + length);
  }
  return cut;
}

std::string Deltas::name() const {
  return std::to_string(count) + " elements of " + std::to_string(inputs.terms.size()) +
         " inputs, " + std::to_string(parts.size()) + " parts, data " +
         std::to_string(static_cast<int>(kind));
}

}  // namespace kernel_tests
