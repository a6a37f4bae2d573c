// What the kernel is told about the inputs while they are read: a window ahead is wanted,
// and what was not in the page cache before is not wanted any more once it has been used.
#pragma once

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <deque>
#include <mutex>

#include "work.hpp"

class Advice {
 public:
  // `lag`: how many units behind the newest one some thread may still be at work.
  Advice(const Work& work, const std::vector<int>& files, u64 window_bytes, u64 lag,
         bool drops)
      : work_(work),
        files_(files),
        window_bytes_(window_bytes),
        lag_(lag),
        drops_(drops) {
    // The kernel's own read-ahead would make the next window look as if it had been
    // cached.
    for (const int file : files) ::posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
  }

  // A thread is about to read unit `number`. Whoever comes first advises; nobody waits.
  void before(u64 number) {
    const std::unique_lock<std::mutex> turn(mutex_, std::try_to_lock);
    if (!turn.owns_lock()) return;
    const Job& job = work_.job_of(number);
    u64 bytes = 1;
    for (const Range& source : job.sources) bytes += job.unit * source.width;
    const u64 step = std::max<u64>(1, window_bytes_ / 2 / bytes);
    if (advised_ < work_.units && number + 2 * step > advised_) {
      const u64 from = std::max(advised_, number);
      advised_ = std::min(work_.units, from + step);
      want(from, advised_);
    }
    while (!ours_.empty() && ours_.front().until + lag_ < number) {
      const Ours& done = ours_.front();
      ::posix_fadvise(done.file, static_cast<off_t>(done.offset),
                      static_cast<off_t>(done.size), POSIX_FADV_DONTNEED);
      ours_.pop_front();
    }
  }

 private:
  struct Ours {
    u64 until;
    int file;
    u64 offset, size;
  };

  // Asks for what units [from, to) read, job by job.
  void want(u64 from, const u64 to) {
    while (from < to) {
      const Unit first(work_, from);
      const Job& job = *first.job;
      const u64 until = std::min(to, job.first_unit + job.units());
      const u64 end = std::min(job.elements, (until - job.first_unit) * job.unit);
      for (const Range& source : job.sources) {
        const u64 offset = source.offset + first.start * source.width;
        want(files_[source.file], offset, (end - first.start) * source.width, to);
      }
      from = until;
    }
  }

  void want(int file, u64 offset, u64 size, u64 until) {
    constexpr long kCachestat =
        451;  // Linux 6.5; where it is missing nothing counts as cached
    const u64 range[2] = {offset, size};
    u64 pages[5] = {};  // cached, dirty, in write-back, evicted, lately evicted
    const bool known = ::syscall(kCachestat, file, range, pages, 0) == 0;
    if (known && pages[0] * 4096 > size / 2) return;
    ::posix_fadvise(file, static_cast<off_t>(offset), static_cast<off_t>(size),
                    POSIX_FADV_WILLNEED);
    if (drops_) ours_.push_back({until, file, offset, size});
  }

  const Work& work_;
  const std::vector<int>& files_;
  const u64 window_bytes_, lag_;
  const bool drops_;
  std::mutex mutex_;
  std::deque<Ours> ours_;
  u64 advised_ = 0;
};
