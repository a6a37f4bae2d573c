#include "passes/line_grams.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "engine/reading.hpp"
#include "engine/slices.hpp"

namespace tvmerge {
namespace {

// So many elements are read at once: short rows together, longer ones in stretches.
constexpr std::uint64_t kStretch = kSumElements;
// Columns are added over blocks of matrix rows, one behind the other, and then over the
// blocks: tall ones, beside which their tables are small, but enough of them to share.
constexpr std::uint64_t kLeastBlock = std::uint64_t{1} << 20, kLeastBlockRows = 64;
constexpr std::uint64_t kMostBlocks = 32;

std::uint64_t parts_of(std::uint64_t count, std::uint64_t part) {
  return (count + part - 1) / part;
}

std::size_t row_count(const LineGramsJob& job) {
  return job.rows.size() / job.sources.size();
}

void check(const LineGramsJob& job, std::size_t files) {
  bool good = !job.sources.empty() && !job.rows.empty() &&
              job.rows.size() % job.sources.size() == 0 && job.lines.fit(job.elements);
  for (const Source& source : job.sources) good = good && source.file < files;
  if (!good)
    throw Error(ErrorKind::config,
                "lines need sources, rows of coefficients, and to fit");
}

// One job's tables, and how it is cut: units are whole rows, or blocks for columns.
struct Tables {
  explicit Tables(const LineGramsJob& job)
      : by_row(job.lines.are_rows_of(job.elements)),
        size(row_count(job) * (row_count(job) + 1) / 2 * job.lines.count) {
    const std::uint64_t run = job.lines.run, columns = job.lines.count;
    if (by_row) {
      unit = std::max<std::uint64_t>(1, kStretch / run) * run;
    } else {
      const std::uint64_t rows = job.elements / columns;
      unit = columns * std::max({kLeastBlockRows, parts_of(kLeastBlock, columns),
                                 parts_of(rows, kMostBlocks)});
    }
    parts.resize(by_row ? 1 : std::max<std::uint64_t>(1, parts_of(job.elements, unit)));
  }

  // What a unit adds its products to.
  double* at(std::uint64_t unit_number) {
    std::vector<double>& part = parts[by_row ? 0 : unit_number];
    if (!by_row) part.resize(size);  // by the thread whose unit it is
    return part.data();
  }
  std::vector<double> total() {
    std::vector<double> sum = std::move(parts.front());
    for (std::size_t p = 1; p < parts.size(); ++p) {
      for (std::size_t i = 0; i < size; ++i) sum[i] += parts[p][i];
      parts[p] = {};
    }
    return sum;
  }

  bool by_row;
  std::size_t size;
  std::uint64_t unit = 1;
  std::vector<std::vector<double>> parts;
};

// One thread's measuring.
class Measuring {
 public:
  Measuring(const Kernels& kernels, const Reader& reader)
      : kernels_(kernels), reader_(reader) {}

  void rows(const LineGramsJob& job, const SliceTable::Slice& slice, double* products) {
    const std::size_t n = row_count(job);
    const std::uint64_t run = job.lines.run;
    for (std::uint64_t at = 0; at < slice.length; at += run) {
      gram_.assign(n * n, 0);
      nonzero_.assign(n, 0);
      for (std::uint64_t done = 0; done < run; done += kStretch) {
        const std::uint64_t count = std::min(kStretch, run - done);
        if (at == 0 || run > kStretch) {  // all rows of a unit are read with its first
          reader_.view_terms(job.sources, slice.start + done,
                             run > kStretch ? count : slice.length, terms_);
        }
        moved_ = terms_;
        for (Term& term : moved_) {
          term.data =
              static_cast<const unsigned char*>(term.data) + at * size_of(term.dtype);
        }
        kernels_.measure({moved_.data(), moved_.size(), job.rows.data(), n, count,
                          gram_.data(), nonzero_.data()});
      }
      double* to = products + (slice.start + at) / run;
      for (std::size_t r = 0; r < n; ++r) {
        for (std::size_t s = 0; s <= r; ++s, to += job.lines.count)
          *to = gram_[r * n + s];
      }
    }
  }

  void columns(const LineGramsJob& job, const SliceTable::Slice& slice,
               double* products) {
    for (std::uint64_t done = 0; done < slice.length; done += kStretch) {
      const std::uint64_t start = slice.start + done;
      const std::uint64_t count = std::min(kStretch, slice.length - done);
      reader_.view_terms(job.sources, start, count, terms_);
      kernels_.measure_columns({terms_.data(), terms_.size(), job.rows.data(),
                                row_count(job), count, job.lines.count,
                                start % job.lines.count, products});
    }
  }

 private:
  const Kernels& kernels_;
  const Reader& reader_;
  std::vector<Term> terms_, moved_;
  std::vector<double> gram_;
  std::vector<std::uint64_t> nonzero_;
};

}  // namespace

std::vector<std::vector<double>> line_grams(const std::vector<std::string>& input_paths,
                                            const std::vector<LineGramsJob>& jobs,
                                            const Options& options) {
  std::uint64_t needed = kSmallestSliceBytes;
  SliceTable table;
  Extents extents(input_paths.size());
  std::vector<Tables> tables;
  for (const LineGramsJob& job : jobs) {
    check(job, input_paths.size());
    needed = std::max(needed, slice_bytes(job.sources, kStretch));
    Tables& held = tables.emplace_back(job);
    if (held.by_row) held.parts.front().resize(held.size);
    table.add(job.elements, held.unit);
    extents.add(job.sources, job.elements);
  }
  const Workspace space(options, needed);
  reserve_descriptors(input_paths.size());
  Inputs inputs(input_paths, extents, options);
  const Kernels& kernels = kernels_for(options.isa);

  const auto body = [&](unsigned /*thread*/, Share& share) {
    const Buffer buffer = make_buffer(needed);
    if (!buffer) return false;
    std::vector<DigestLanes> no_digests;
    const Reader reader(inputs, kernels, buffer.get(), no_digests, share);
    Measuring measuring(kernels, reader);
    while (const auto unit = share.next()) {
      const SliceTable::Slice slice = table.at(*unit);
      const LineGramsJob& job = jobs[slice.job];
      double* const products = tables[slice.job].at(slice.number);
      if (tables[slice.job].by_row) {
        measuring.rows(job, slice, products);
      } else {
        measuring.columns(job, slice, products);
      }
    }
    return true;
  };
  inputs.run(table.count(), space.threads, body, options.progress);
  std::vector<std::vector<double>> found;
  found.reserve(tables.size());
  for (Tables& held : tables) found.push_back(held.total());
  return found;
}

}  // namespace tvmerge
