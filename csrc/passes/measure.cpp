// Measuring: inner products of linear combinations, in one pass, nothing written.
#include <algorithm>
#include <map>
#include <mutex>

#include "cards/card_measure.hpp"
#include "cards/card_pool.hpp"
#include "engine/engine.hpp"
#include "engine/reading.hpp"
#include "engine/slices.hpp"

namespace tvmerge {
namespace {

// Reductions use slices of a fixed size: their sums must not depend on an option.
constexpr std::uint64_t kMeasureElements = kSumElements;

}  // namespace

std::vector<Measured> measure(const std::vector<std::string>& input_paths,
                              const std::vector<MeasureJob>& jobs,
                              const Options& options) {
  // How two tensors differ (no rows) is asked of whole models, and waits for their disk.
  const bool rows = std::all_of(jobs.begin(), jobs.end(),
                                [](const MeasureJob& job) { return !job.rows.empty(); });
  if (!options.cards.empty() && !jobs.empty() && rows)
    return measure_on_cards(input_paths, jobs, options);
  std::uint64_t needed = kSmallestSliceBytes;
  SliceTable table;
  std::vector<Measured> totals(jobs.size());
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    const std::size_t rows = jobs[j].rows.size() / jobs[j].sources.size();
    needed = std::max(needed, slice_bytes(jobs[j].sources, kMeasureElements));
    table.add(jobs[j].elements, kMeasureElements);
    totals[j] = {std::vector<double>(rows == 0 ? 4 : rows * rows),
                 std::vector<std::uint64_t>(rows == 0 ? 1 : rows)};
  }
  const Workspace space(options, needed);
  reserve_descriptors(input_paths.size());
  Extents extents(input_paths.size());
  for (const MeasureJob& job : jobs) extents.add(job.sources, job.elements);
  Inputs inputs(input_paths, extents, options);
  const Kernels& kernels = kernels_for(options.isa);

  // Partial sums wait here until those of all earlier slices have been added.
  std::mutex adding;
  std::map<std::uint64_t, Measured> waiting;
  std::uint64_t next = 0;
  const auto add_in_order = [&](std::uint64_t unit, Measured part) {
    const std::lock_guard<std::mutex> lock(adding);
    waiting.emplace(unit, std::move(part));
    for (auto first = waiting.find(next); first != waiting.end();
         first = waiting.find(++next)) {
      Measured& total = totals[table.at(next).job];
      for (std::size_t i = 0; i < total.gram.size(); ++i)
        total.gram[i] += first->second.gram[i];
      for (std::size_t i = 0; i < total.nonzero.size(); ++i) {
        total.nonzero[i] += first->second.nonzero[i];
      }
      waiting.erase(first);
    }
  };

  const auto body = [&](unsigned /*thread*/, Share& share) {
    const Buffer buffer = make_buffer(space.bytes);
    if (!buffer) return false;
    std::vector<DigestLanes> no_digests;
    const Reader reader(inputs, kernels, buffer.get(), no_digests, share);
    std::vector<Term> terms;
    while (const auto unit = share.next()) {
      const SliceTable::Slice slice = table.at(*unit);
      const MeasureJob& job = jobs[slice.job];
      reader.view_terms(job.sources, slice.start, slice.length, terms);
      const Measured& total = totals[slice.job];
      Measured part{std::vector<double>(total.gram.size()),
                    std::vector<std::uint64_t>(total.nonzero.size())};
      kernels.measure({terms.data(), terms.size(), job.rows.data(),
                       job.rows.size() / job.sources.size(), slice.length,
                       part.gram.data(), part.nonzero.data()});
      add_in_order(*unit, std::move(part));
    }
    return true;
  };
  inputs.run(table.count(), space.threads, body, options.progress);
  return totals;
}

}  // namespace tvmerge
