#include "passes/delta_sums.hpp"

#include <algorithm>

#include "cards/card_measure.hpp"
#include "cards/card_pool.hpp"
#include "core/error.hpp"
#include "engine/reading.hpp"
#include "engine/row_ranks.hpp"
#include "engine/slices.hpp"

namespace tvmerge {
namespace {

RankedDeltas ranked(const DeltaSumsJob& job) {
  return {job.sources, job.elements, job.parts};
}

void check(const DeltaSumsJob& job, std::size_t files) {
  bool good = !job.sources.empty();
  for (const Source& source : job.sources) good = good && source.file < files;
  for (const Part& part : job.parts) {
    good = good && part.source > 0 &&
           static_cast<std::size_t>(part.source) < job.sources.size();
  }
  good = good && ranked(job).good() &&
         (job.elected < 0 || static_cast<std::size_t>(job.elected) < job.parts.size());
  if (!good) throw Error(ErrorKind::config, "a part names no source that exists");
}

// What stretches of kSumElements came to, all parts of one behind those of the other,
// added up in their order.
std::vector<std::vector<DeltaSums>> totals_of(
    const std::vector<DeltaSumsJob>& jobs,
    const std::vector<std::vector<DeltaSums>>& stretches) {
  std::vector<std::vector<DeltaSums>> totals;
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    const std::size_t parts = jobs[j].parts.size();
    totals.emplace_back(parts);
    for (std::size_t i = 0; i < stretches[j].size(); ++i)
      totals[j][i % parts] += stretches[j][i];
  }
  return totals;
}

std::vector<std::vector<DeltaSums>> delta_sums_on_processors(
    const std::vector<std::string>& input_paths, const std::vector<DeltaSumsJob>& jobs,
    const Options& options) {
  std::uint64_t read_bytes = kSmallestSliceBytes, rank_bytes = 0;
  SliceTable table;
  Extents extents(input_paths.size());
  std::vector<std::vector<DeltaSums>> parts(jobs.size());  // slice by slice
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    read_bytes = std::max(read_bytes, slice_bytes(jobs[j].sources, kSumElements));
    rank_bytes = std::max(rank_bytes, ranked(jobs[j]).bytes(kSumElements));
    const std::uint64_t before = table.count();
    table.add(jobs[j].elements, kSumElements);
    parts[j].resize((table.count() - before) * jobs[j].parts.size());
    extents.add(jobs[j].sources, jobs[j].elements);
  }
  const Workspace space(options, read_bytes + rank_bytes);
  reserve_descriptors(input_paths.size());
  Inputs inputs(input_paths, extents, options);
  const Kernels& kernels = kernels_for(options.isa);

  const auto body = [&](unsigned /*thread*/, Share& share) {
    const Buffer buffer = make_buffer(read_bytes + rank_bytes);
    if (!buffer) return false;
    std::vector<DigestLanes> no_digests;
    const Reader reader(inputs, kernels, buffer.get(), no_digests, share);
    const RowRanks ranks(inputs, kernels, buffer.get() + read_bytes);
    std::vector<Term> terms;
    while (const auto unit = share.next()) {
      const SliceTable::Slice slice = table.at(*unit);
      const DeltaSumsJob& job = jobs[slice.job];
      if (ranked(job).draws()) {
        reader.read_terms(job.sources, slice.start, slice.length, terms);
      } else {
        reader.view_terms(job.sources, slice.start, slice.length, terms);
      }
      const DeltaSlice all{terms.data(),
                           terms.size(),
                           job.parts.data(),
                           job.parts.size(),
                           ranks.limits(ranked(job), terms, slice.start, slice.length),
                           slice.start,
                           slice.length,
                           &parts[slice.job][slice.number * job.parts.size()],
                           job.elected};
      kernels.delta_sums(all);
      if (job.counted) kernels.count_kept(all);
    }
    return true;
  };
  inputs.run(table.count(), space.threads, body, options.progress);

  return parts;
}

}  // namespace

std::vector<std::vector<DeltaSums>> delta_sums(
    const std::vector<std::string>& input_paths, const std::vector<DeltaSumsJob>& jobs,
    const Options& options) {
  for (const DeltaSumsJob& job : jobs) check(job, input_paths.size());
  const bool cards = !options.cards.empty() && !jobs.empty();
  auto totals =
      totals_of(jobs, cards ? delta_sums_on_cards(input_paths, jobs, options)
                            : delta_sums_on_processors(input_paths, jobs, options));
  for (const DeltaSumsJob& job : jobs) {
    for (const Part& part : job.parts) {
      // Cards draw what has no rows, and note nothing.
      if (part.keep.mask && !(cards && part.keep.row == 0))
        part.keep.mask->complete = true;
    }
  }
  return totals;
}

}  // namespace tvmerge
