#include "passes/sampling.hpp"

#include <algorithm>

namespace tvmerge {
namespace {

constexpr std::uint64_t kFewestChunks = 64, kMostChunks = 512, kChunkElements = 512;
constexpr std::uint64_t kElementsAChunk = std::uint64_t{64} * 1024;

std::uint64_t chunks_of(const SelectJob& job, std::uint64_t room_bytes) {
  const std::uint64_t room =
      room_bytes / (job.queries.size() * kChunkElements * sizeof(Key));
  const std::uint64_t most = std::clamp(room, kFewestChunks, kMostChunks);
  return std::clamp(job.elements / kElementsAChunk, kFewestChunks, most);
}

// The first query of the same source: they come one behind the other.
std::size_t sample_of(const SelectJob& job, std::size_t query) {
  while (query > 0 && job.queries[query - 1].source == job.queries[query].source) --query;
  return query;
}

}  // namespace

void sample_job(const SelectJob& job, std::uint64_t room_bytes, Ranking& ranking,
                std::vector<Search>& searches) {
  std::vector<std::vector<Key>> samples(searches.size());
  const bool whole = job.elements <= kFewestChunks * kChunkElements;
  const std::uint64_t chunks = whole ? 1 : chunks_of(job, room_bytes);
  const std::uint64_t length = whole ? job.elements : kChunkElements;
  for (std::size_t q = 0; q < searches.size(); ++q)
    if (sample_of(job, q) == q) samples[q].reserve(chunks * length);
  for (std::uint64_t c = 0; c < chunks; ++c) {
    const std::uint64_t start = whole ? 0 : (job.elements - length) / (chunks - 1) * c;
    ranking.look_at(job, start, length);
    for (std::size_t q = 0; q < searches.size(); ++q) {
      if (sample_of(job, q) != q) continue;
      const Key* const keys = ranking.keys(job.queries[q], 0, length);
      samples[q].insert(samples[q].end(), keys, keys + length);
    }
  }
  for (std::size_t q = 0; q < searches.size(); ++q)
    searches[q].bracket(samples[sample_of(job, q)]);
}

}  // namespace tvmerge
