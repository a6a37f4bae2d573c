#include "passes/divergence.hpp"

#include <algorithm>
#include <limits>

#include "core/error.hpp"
#include "engine/reading.hpp"
#include "engine/slices.hpp"

namespace tvmerge {
namespace {

// So many elements are read at once: short rows together, a longer one in stretches,
// three times.
constexpr std::uint64_t kStretch = kSumElements;
// Of rows this long the exponentials stay in a near cache until they are needed again.
constexpr std::uint64_t kLongestKept = std::uint64_t{16} * 1024;
constexpr std::uint64_t kKeptBytes = 2 * kLongestKept * sizeof(double);

void check(const DivergenceJob& job, std::size_t files) {
  bool good = job.sources.size() == 2 && job.row > 0 && job.elements % job.row == 0;
  for (const Source& source : job.sources) good = good && source.file < files;
  if (!good) throw Error(ErrorKind::config, "a divergence needs two sources and rows");
}

float factor_of(const RowDivergence& row) {
  const bool finite = row.mass[0] > 0 && row.mass[1] > 0;  // else something is not
  return finite ? static_cast<float>(std::max(0.0, row.sum))
                : std::numeric_limits<float>::quiet_NaN();
}

// The rows that begin in one unit of a job.
class Rows {
 public:
  // `room` has kKeptBytes.
  Rows(const DivergenceJob& job, const Kernels& kernels, const Reader& reader,
       double* room)
      : job_(job),
        kernels_(kernels),
        reader_(reader),
        kept_(job.row <= kLongestKept ? room : nullptr) {}

  void measure(const SliceTable::Slice& slice, float* factors) {
    if (job_.row > kStretch) {
      *factors = in_stretches(slice.start);
      return;
    }
    reader_.view_terms(job_.sources, slice.start, slice.length, terms_);
    for (std::uint64_t start = 0; start < slice.length; start += job_.row) {
      RowDivergence row;
      for (const DivergenceStep step : kDivergenceSteps)
        kernels_.diverge({terms_.data(), start, job_.row, step, &row, kept_});
      *factors++ = factor_of(row);
    }
  }

 private:
  float in_stretches(std::uint64_t first) {
    RowDivergence row;
    for (const DivergenceStep step : kDivergenceSteps) {
      for (std::uint64_t start = 0; start < job_.row; start += kStretch) {
        const std::uint64_t count = std::min(kStretch, job_.row - start);
        reader_.view_terms(job_.sources, first + start, count, terms_);
        kernels_.diverge({terms_.data(), 0, count, step, &row});
      }
    }
    return factor_of(row);
  }

  const DivergenceJob& job_;
  const Kernels& kernels_;
  const Reader& reader_;
  double* kept_;
  std::vector<Term> terms_;
};

}  // namespace

std::vector<std::shared_ptr<RowFactors>> divergences(
    const std::vector<std::string>& input_paths, const std::vector<DivergenceJob>& jobs,
    const Options& options) {
  std::uint64_t read_bytes = kSmallestSliceBytes;
  SliceTable table;
  Extents extents(input_paths.size());
  std::vector<std::shared_ptr<RowFactors>> found;
  for (const DivergenceJob& job : jobs) {
    check(job, input_paths.size());
    read_bytes = std::max(read_bytes, slice_bytes(job.sources, kStretch));
    table.add(job.elements, std::max<std::uint64_t>(1, kStretch / job.row) * job.row);
    extents.add(job.sources, job.elements);
    found.push_back(std::make_shared<RowFactors>());
    found.back()->row = job.row;
    found.back()->factors.resize(job.elements / job.row);
  }
  const std::uint64_t needed = read_bytes + kKeptBytes;
  const Workspace space(options, needed);
  reserve_descriptors(input_paths.size());
  Inputs inputs(input_paths, extents, options);
  const Kernels& kernels = kernels_for(options.isa);

  const auto body = [&](unsigned /*thread*/, Share& share) {
    const Buffer buffer = make_buffer(needed);
    if (!buffer) return false;
    std::vector<DigestLanes> no_digests;
    const Reader reader(inputs, kernels, buffer.get(), no_digests, share);
    auto* const room = reinterpret_cast<double*>(buffer.get() + read_bytes);
    while (const auto unit = share.next()) {
      const SliceTable::Slice slice = table.at(*unit);
      RowFactors& rows = *found[slice.job];
      Rows(jobs[slice.job], kernels, reader, room)
          .measure(slice, &rows.factors[slice.start / rows.row]);
    }
    return true;
  };
  inputs.run(table.count(), space.threads, body, options.progress);
  return found;
}

}  // namespace tvmerge
