// Deltas that are masked, elect a sign, have to be several, and are averaged.
#include "cuda/launches.hpp"
#include "parts.hpp"

namespace kernel_tests {
namespace {

constexpr std::size_t kTermCounts[] = {2, 3, 4, 5, 9};

void test(std::size_t count, std::size_t term_count, Dtype out, const Dtype* only,
          Kind kind, Random& random) {
  const std::size_t part_count = random.one_in(4) ? 1 + random.below(7) : term_count - 1;
  const Deltas deltas(count, term_count, part_count, only, kind, random);
  Consensus consensus{
      deltas.parts,     random.one_in(2) ? 1 : 0.7,
      random.one_in(2), random.one_in(2),
      random.one_in(2), random.one_in(3) ? 1 + random.below(part_count) : 0};
  if (random.one_in(2)) {
    for (Part& part : consensus.parts) part.threshold = random.unit();
  }
  if (!deltas.simple && random.one_in(4)) {
    for (Part& part : consensus.parts) part.alone = 0.5 + random.unit();
  }
  consensus.largest = random.one_in(4);
  if (consensus.least > 0 && random.one_in(2)) {
    for (Part& part : consensus.parts)
      part.votes = static_cast<unsigned>(random.below(3));
  }
  const std::size_t tiles = (count + kTileElements - 1) / kTileElements;
  const Memory found(count * size_of(out)), expected(count * size_of(out));
  const Memory edits(tiles * sizeof(Edit)), expected_edits(tiles * sizeof(Edit));
  ConsensusSlice slice{deltas.inputs.terms.data(),
                       term_count,
                       &consensus,
                       deltas.limits.as<std::uint32_t>(),
                       deltas.first,
                       found.data(),
                       out,
                       count,
                       random.one_in(6) ? nullptr : edits.as<Edit>()};
  const std::string name = "consensus: " + deltas.name() + ", to dtype " +
                           std::to_string(static_cast<int>(out));
  cuda::consensus(slice, stream());
  finish(name);
  slice.out = expected.data();
  slice.edits = slice.edits != nullptr ? expected_edits.as<Edit>() : nullptr;
  generic_kernels().consensus(slice);
  check_bytes(found.data(), expected.data(), found.size_bytes(), name);
  for (std::size_t t = 0; t < tiles && slice.edits != nullptr; ++t) {
    const Edit &a = edits.as<Edit>()[t], &b = expected_edits.as<Edit>()[t];
    check(a.changed == b.changed && a.intended == b.intended && a.lost == b.lost &&
              same(a.intended_sq, b.intended_sq) && same(a.realised_sq, b.realised_sq) &&
              same(a.dot, b.dot),
          name + ": edit of tile " + std::to_string(t));
  }
}

}  // namespace

void test_consensus(Random& random, std::size_t one_in) {
  for (const Dtype out : kDtypes) {
    for (const Kind kind : kKinds) {
      for (const std::size_t terms : kTermCounts) {
        for (const std::size_t count : kSmall) {
          if (is_chosen(random, one_in * (terms > 4 ? 3 : 1)))
            test(count, terms, out, random.one_in(3) ? nullptr : &out, kind, random);
        }
        for (const std::size_t count : kLarge) {
          if (is_chosen(random, one_in * 20)) test(count, terms, out, &out, kind, random);
        }
      }
    }
  }
}

}  // namespace kernel_tests
