#include "cards/card_measure.hpp"

#include <algorithm>
#include <cstring>

#include "cards/card_pass.hpp"

namespace tvmerge {
std::vector<Measured> measure_on_cards(const std::vector<std::string>& paths,
                                       const std::vector<MeasureJob>& jobs,
                                       const Options& options) {
  CardPass pass(paths, options);
  std::vector<std::size_t> rows;
  std::vector<std::vector<double>> grams(jobs.size());  // stretch by stretch
  std::vector<std::vector<std::uint64_t>> counts(jobs.size());
  std::uint64_t room_bytes = 0, result_bytes = 0;
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    const MeasureJob& job = jobs[j];
    rows.push_back(job.rows.size() / job.sources.size());
    const std::uint64_t unit =
        std::min(pass.add(job.sources, job.elements), aligned(job.elements));
    const std::uint64_t stretches = stretches_of(job.elements), n = rows[j];
    grams[j].resize(stretches * n * n);
    counts[j].resize(stretches * n);
    room_bytes = std::max(room_bytes, aligned(measure_room(n, unit)));
    result_bytes = std::max(result_bytes, stretches_of(unit) * n * (n + 1) * 8);
  }
  pass.needs.card_bytes = room_bytes + result_bytes;
  pass.needs.host_bytes = result_bytes;

  pass.run(
      [&](Flight& flight, const SliceTable::Slice& slice, const RowRanks& /*ranks*/) {
        const std::uint64_t n = rows[slice.job], stretches = stretches_of(slice.length);
        auto* const gram = reinterpret_cast<double*>(flight.room + room_bytes);
        flight.stream->measure(
            {flight.there.data(), flight.there.size(), jobs[slice.job].rows.data(), n,
             slice.length, gram,
             reinterpret_cast<std::uint64_t*>(gram + stretches * n * n)},
            flight.room);
        flight.stream->copy_out(flight.back, gram, stretches * n * (n + 1) * 8);
      },
      [&](Flight& flight, const SliceTable::Slice& slice) {
        const std::uint64_t n = rows[slice.job], stretches = stretches_of(slice.length);
        const std::uint64_t first = slice.start / kSumElements;
        const std::uint64_t gram_bytes = stretches * n * n * sizeof(double);
        std::memcpy(grams[slice.job].data() + first * n * n, flight.back, gram_bytes);
        std::memcpy(counts[slice.job].data() + first * n, flight.back + gram_bytes,
                    stretches * n * sizeof(std::uint64_t));
      });

  std::vector<Measured> totals;
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    const std::size_t n = rows[j];
    Measured& total = totals.emplace_back(
        Measured{std::vector<double>(n * n), std::vector<std::uint64_t>(n)});
    for (std::size_t i = 0; i < grams[j].size(); ++i)
      total.gram[i % (n * n)] += grams[j][i];
    for (std::size_t i = 0; i < counts[j].size(); ++i)
      total.nonzero[i % n] += counts[j][i];
  }
  return totals;
}

std::vector<std::vector<DeltaSums>> delta_sums_on_cards(
    const std::vector<std::string>& paths, const std::vector<DeltaSumsJob>& jobs,
    const Options& options) {
  CardPass pass(paths, options);
  std::vector<std::vector<DeltaSums>> parts(jobs.size());  // stretch by stretch
  std::uint64_t room_bytes = 0, result_bytes = 0, limit_bytes = 0;
  bool ranked = false;
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    const DeltaSumsJob& job = jobs[j];
    const std::uint64_t unit =
        std::min(pass.add(job.sources, job.elements), aligned(job.elements));
    parts[j].resize(stretches_of(job.elements) * job.parts.size());
    room_bytes = std::max(room_bytes, aligned(delta_room(job.parts.size(), unit)));
    result_bytes = std::max(
        result_bytes, aligned(stretches_of(unit) * job.parts.size() * sizeof(DeltaSums)));
    const RankedDeltas deltas{job.sources, job.elements, job.parts};
    ranked = ranked || deltas.any_rows();
    limit_bytes = std::max(limit_bytes, deltas.slice_bytes(unit));
    pass.ranking_bytes = std::max(pass.ranking_bytes, deltas.bytes(unit));
  }
  pass.needs.card_bytes = room_bytes + result_bytes + limit_bytes;
  pass.needs.host_bytes = result_bytes + limit_bytes;

  pass.run(
      [&](Flight& flight, const SliceTable::Slice& slice, const RowRanks& ranks) {
        const DeltaSumsJob& job = jobs[slice.job];
        auto* const sums = reinterpret_cast<DeltaSums*>(flight.room + room_bytes);
        const RankedDeltas deltas{job.sources, job.elements, job.parts};
        const std::uint32_t* limits =
            ranks.limits(deltas, flight.here, slice.start, slice.length);
        if (limits != nullptr) {
          unsigned char* const pinned = flight.back + result_bytes;
          unsigned char* const there = flight.room + room_bytes + result_bytes;
          std::memcpy(pinned, limits, deltas.slice_bytes(slice.length));
          flight.stream->copy_in(there, pinned, deltas.slice_bytes(slice.length));
          limits = reinterpret_cast<const std::uint32_t*>(there);
        }
        flight.stream->delta_sums(
            {flight.there.data(), flight.there.size(), job.parts.data(), job.parts.size(),
             limits, slice.start, slice.length, sums, job.elected},
            job.counted, flight.room);
        flight.stream->copy_out(
            flight.back, sums,
            stretches_of(slice.length) * job.parts.size() * sizeof(DeltaSums));
      },
      [&](Flight& flight, const SliceTable::Slice& slice) {
        const std::size_t each = jobs[slice.job].parts.size();
        std::memcpy(parts[slice.job].data() + slice.start / kSumElements * each,
                    flight.back, stretches_of(slice.length) * each * sizeof(DeltaSums));
      },
      ranked);

  return parts;
}

}  // namespace tvmerge
