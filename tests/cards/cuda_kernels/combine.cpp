// Weighted sums, rounded and compared.
#include "checks.hpp"
#include "cuda/launches.hpp"

namespace kernel_tests {
namespace {

constexpr std::size_t kTermCounts[] = {0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 64};

std::string name_of(const CombineSlice& slice, Kind kind) {
  return "combine: " + std::to_string(slice.count) + " elements of " +
         std::to_string(slice.term_count) + " terms to dtype " +
         std::to_string(static_cast<int>(slice.out_dtype)) + ", data " +
         std::to_string(static_cast<int>(kind));
}

double coefficient(Random& random) {
  if (random.one_in(40)) return random.one_in(2) ? 1e300 : 1e-42;  // for float64 only
  return random.one_in(6) ? 1 : 3 * random.unit() - 1.5;
}

bool same(const Edit& a, const Edit& b) {
  return a.changed == b.changed && a.intended == b.intended && a.lost == b.lost &&
         kernel_tests::same(a.intended_sq, b.intended_sq) &&
         kernel_tests::same(a.realised_sq, b.realised_sq) &&
         kernel_tests::same(a.dot, b.dot);
}

// Coefficients for the lines of a slice that may begin anywhere in its tensor.
struct Table {
  Table(std::size_t count, std::vector<Term>& terms, std::size_t term_count,
        Random& random)
      : lines(random.one_in(2) ? Lines{1 + random.below(2 * count), 1 + random.below(9)}
                               : Lines{1, 1 + random.below(3 * count)}),
        first(random.below(lines.run * lines.count)),
        range(lines_in(lines, first, count)),
        memory(term_count * range.count * sizeof(double)) {
    for (std::size_t k = 0; k < term_count; ++k) {
      terms[k].coefficient = 1;
      for (std::size_t line = 0; line < range.count; ++line) {
        const double c = random.one_in(6) ? 0 : coefficient(random);
        memory.as<double>()[k * range.count + line] = c;
        if (c == 1e300 || c == 1e-42) terms[k].coefficient = c;
      }
    }
  }
  [[nodiscard]] LineTable table() const {
    return {memory.as<double>(), range.count, lines, range.begin, first};
  }

  Lines lines;
  std::uint64_t first;
  LineRange range;
  Memory memory;
};

void test(std::size_t count, std::size_t term_count, Dtype out, const Dtype* only,
          Kind kind, Random& random, bool by_line = false) {
  // One more, that the result is compared with.
  Inputs inputs(dtypes_of(term_count + 1, only, random), count, kind, random);
  for (Term& term : inputs.terms) term.coefficient = coefficient(random);
  const std::size_t tiles = (count + kTileElements - 1) / kTileElements;
  const Memory found(count * size_of(out)), expected(count * size_of(out));
  const Memory edits(tiles * sizeof(Edit)), expected_edits(tiles * sizeof(Edit));
  CombineSlice slice{inputs.terms.data(), term_count, found.data(), out, count,
                     edits.as<Edit>(),    nullptr,    out};
  const Table table(count, inputs.terms, by_line ? term_count : 0, random);
  const LineTable lines = table.table();
  if (by_line) slice.lines = &lines;
  const std::size_t how = kind == Kind::huge ? 2 : random.below(6);
  if (kind == Kind::huge) inputs.terms[0].coefficient = 1;
  if (how == 0) slice.edits = nullptr;
  if (how > 1) {
    const Term& reference = inputs.terms[how == 2 ? 0 : term_count];
    slice.reference = reference.data;
    slice.reference_dtype = reference.dtype;
  }
  cuda::combine(slice, stream());
  finish(name_of(slice, kind));
  slice.out = expected.data();
  slice.edits = slice.edits != nullptr ? expected_edits.as<Edit>() : nullptr;
  generic_kernels().combine(slice);
  check_bytes(found.data(), expected.data(), found.size_bytes(), name_of(slice, kind));
  for (std::size_t t = 0; t < tiles && slice.edits != nullptr; ++t)
    check(same(edits.as<Edit>()[t], expected_edits.as<Edit>()[t]),
          name_of(slice, kind) + ": edit of tile " + std::to_string(t));
}

}  // namespace

void test_combine(Random& random, std::size_t one_in) {
  for (const Dtype out : kDtypes) {
    for (const Kind kind : kKinds) {
      for (const std::size_t count : kSmall) {
        for (const std::size_t terms : kTermCounts) {
          if (is_chosen(random, one_in * (terms > 17 ? 6 : 1)))
            test(count, terms, out, &out, kind, random);
          if (is_chosen(random, one_in * (terms > 17 ? 12 : 2)))
            test(count, terms, out, nullptr, kind, random);
          if (terms < 6 && is_chosen(random, one_in))
            test(count, terms, out, terms % 2 == 0 ? &out : nullptr, kind, random, true);
        }
      }
      for (const std::size_t count : kLarge) {
        if (is_chosen(random, one_in * 4)) test(count, 3, out, &out, kind, random);
        if (is_chosen(random, one_in * 8)) test(count, 2, out, nullptr, kind, random);
      }
    }
  }
}

}  // namespace kernel_tests
