// Inner products, and sums of deltas: one result for every kSumElements.
#include <algorithm>

#include "cuda/launches.hpp"
#include "parts.hpp"

namespace kernel_tests {
namespace {

std::size_t stretches_of(std::size_t count) {
  return (count + kSumElements - 1) / kSumElements;
}

void test_measure(std::size_t count, std::size_t term_count, const Dtype* only, Kind kind,
                  Random& random) {
  const Inputs inputs(dtypes_of(term_count, only, random), count, kind, random);
  const std::size_t row_count = 1 + random.below(5), stretches = stretches_of(count);
  std::vector<double> rows(row_count * term_count);
  for (double& c : rows) c = random.one_in(3) ? 0 : random.one_in(3) ? -1 : random.unit();
  const std::size_t pairs = row_count * row_count;
  const Memory gram(stretches * pairs * sizeof(double));
  const Memory nonzero(stretches * row_count * sizeof(std::uint64_t));
  const Memory room(measure_room(row_count, count));
  const std::string name = "measure: " + std::to_string(count) + " elements, " +
                           std::to_string(row_count) + " rows of " +
                           std::to_string(term_count) + " terms, data " +
                           std::to_string(static_cast<int>(kind));
  cuda::measure({inputs.terms.data(), term_count, rows.data(), row_count, count,
                 gram.as<double>(), nonzero.as<std::uint64_t>()},
                room.data(), stream());
  finish(name);
  for (std::size_t s = 0; s < stretches; ++s) {
    const std::vector<Term> terms = inputs.from(s * kSumElements);
    std::vector<double> products(pairs);
    std::vector<std::uint64_t> counts(row_count);
    generic_kernels().measure(
        {terms.data(), term_count, rows.data(), row_count,
         std::min<std::size_t>(kSumElements, count - s * kSumElements), products.data(),
         counts.data()});
    bool good = true;
    for (std::size_t k = 0; k < pairs; ++k)
      good = good && same(gram.as<double>()[s * pairs + k], products[k]);
    check(good, name + ": products");
    check_bytes(nonzero.as<std::uint64_t>() + s * row_count, counts.data(),
                row_count * sizeof(std::uint64_t), name + ": counts");
  }
}

void test_sums(std::size_t count, std::size_t term_count, const Dtype* only, Kind kind,
               Random& random) {
  const std::size_t part_count = random.one_in(4) ? 1 + random.below(7) : term_count - 1;
  const Deltas deltas(count, term_count, part_count, only, kind, random);
  const bool counted = random.one_in(2);
  const auto elected =
      random.one_in(3) ? static_cast<std::int32_t>(random.below(part_count)) : -1;
  const std::size_t stretches = stretches_of(count);
  const Memory sums(stretches * part_count * sizeof(DeltaSums));
  const Memory room(delta_room(part_count, count));
  const std::string name = "delta_sums: " + deltas.name();
  cuda::delta_sums({deltas.inputs.terms.data(), term_count, deltas.parts.data(),
                    part_count, deltas.limits.as<std::uint32_t>(), deltas.first, count,
                    sums.as<DeltaSums>(), elected},
                   counted, room.data(), stream());
  finish(name);
  for (std::size_t s = 0; s < stretches; ++s) {
    const std::size_t start = s * kSumElements;
    const std::size_t length = std::min<std::size_t>(kSumElements, count - start);
    const std::vector<Term> terms = deltas.inputs.from(start);
    const std::vector<std::uint32_t> limits = deltas.limits_from(start, length);
    std::vector<DeltaSums> expected(part_count);
    const DeltaSlice slice{terms.data(), term_count,      deltas.parts.data(),
                           part_count,   limits.data(),   deltas.first + start,
                           length,       expected.data(), elected};
    generic_kernels().delta_sums(slice);
    if (counted) generic_kernels().count_kept(slice);
    for (std::size_t p = 0; p < part_count; ++p) {
      const DeltaSums &a = sums.as<DeltaSums>()[s * part_count + p], &b = expected[p];
      check(same(a.all, b.all) && same(a.kept, b.kept) && same(a.kept_sq, b.kept_sq) &&
                a.count == b.count && a.alone == b.alone,
            name + ": part " + std::to_string(p));
    }
  }
}

}  // namespace

void test_reduce(Random& random, std::size_t one_in) {
  for (const Kind kind : kKinds) {
    for (const Dtype dtype : kDtypes) {
      for (const std::size_t terms : {2, 3, 4, 5, 9}) {
        const Dtype* const only = random.one_in(2) ? &dtype : nullptr;
        for (const std::size_t count : kSmall) {
          if (is_chosen(random, one_in * 2))
            test_measure(count, terms, only, kind, random);
          if (is_chosen(random, one_in * 2)) test_sums(count, terms, only, kind, random);
        }
        for (const std::size_t count : kLarge) {
          if (is_chosen(random, one_in * 20))
            test_measure(count, terms, only, kind, random);
          if (is_chosen(random, one_in * 20)) test_sums(count, terms, only, kind, random);
        }
      }
    }
  }
}

}  // namespace kernel_tests
