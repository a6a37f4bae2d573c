// What a selection ranks: the keys of ranges of a job's sources. A thread's own.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/job.hpp"
#include "engine/reading.hpp"
#include "kernels/kernels.hpp"

namespace tvmerge {

constexpr std::uint64_t kSelectElements = kSumElements;  // of a range, at most

class Ranking {
 public:
  // `keys` has room for kSelectElements.
  Ranking(const Kernels& kernels, const Reader& reader, Key* keys)
      : kernels_(kernels), reader_(reader), keys_(keys) {}

  void look_at(const SelectJob& job, std::uint64_t start, std::uint64_t count) {
    job_ = &job;
    start_ = start;
    reader_.view_terms(job.sources, start, count, terms_);
  }

  // The keys of `count` elements from the range's element `at` on, until the next call.
  const Key* keys(const Query& query, std::uint64_t at, std::uint64_t count) {
    kernels_.ranked_keys({terms_.data(), terms_.size(), query.source, count,
                          job_->factors.get(), start_ + at, at},
                         keys_);
    return keys_;
  }

 private:
  const Kernels& kernels_;
  const Reader& reader_;
  Key* keys_;
  const SelectJob* job_ = nullptr;
  std::uint64_t start_ = 0;
  std::vector<Term> terms_;
};

}  // namespace tvmerge
