// The reads and writes of a merge, cut as the engine cuts them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <istream>
#include <sstream>
#include <string>
#include <vector>

using u64 = std::uint64_t;

struct Range {
  std::size_t file;
  u64 offset, width;  // bytes; width: of one element
};

struct Job {
  u64 elements = 0;
  u64 slice = 0, unit = 0;  // elements that are read at a time, and written at a time
  u64 first_unit = 0;
  Range out{};
  std::vector<Range> sources;

  [[nodiscard]] u64 units() const { return (elements + unit - 1) / unit; }
};

struct Work {
  std::vector<std::string> inputs, outputs;
  std::vector<u64> output_sizes;
  std::vector<Job> jobs;
  u64 units = 0;
  std::size_t most_sources = 0;

  [[nodiscard]] const Job& job_of(u64 unit) const {
    const auto after =
        std::upper_bound(jobs.begin(), jobs.end(), unit,
                         [](u64 u, const Job& job) { return u < job.first_unit; });
    return *(after - 1);
  }
};

// Some elements of a job: what one thread does at a time.
struct Unit {
  const Job* job;
  u64 start, count;

  Unit(const Work& work, u64 number) : job(&work.job_of(number)) {
    start = (number - job->first_unit) * job->unit;
    count = std::min(job->unit, job->elements - start);
  }
};

// Reads `in`, `out` and `job` lines (see io_floor.cpp). Slices are 1024 elements times a
// power of two, as many as keep within the two numbers of bytes.
inline Work read_work(std::istream& lines, u64 read_bytes, u64 write_bytes) {
  Work work;
  for (std::string line; std::getline(lines, line);) {
    const std::string kind = line.substr(0, line.find(' '));
    const std::string rest = line.substr(std::min(line.size(), kind.size() + 1));
    if (kind == "in") work.inputs.push_back(rest);
    if (kind == "out") {
      const std::size_t gap = rest.find(' ');
      work.output_sizes.push_back(std::stoull(rest.substr(0, gap)));
      work.outputs.push_back(rest.substr(gap + 1));
    }
    if (kind != "job") continue;
    std::istringstream words(rest);
    Job job;
    words >> job.elements >> job.out.file >> job.out.offset >> job.out.width;
    u64 width = 0;
    for (Range source{}; words >> source.file >> source.offset >> source.width;) {
      job.sources.push_back(source);
      width += source.width;
    }
    if (job.elements == 0) continue;
    job.slice = 1024;
    while (job.slice * 2 * width <= read_bytes) job.slice *= 2;
    job.unit = job.slice;
    while (job.unit * 2 * job.out.width <= write_bytes) job.unit *= 2;
    job.first_unit = work.units;
    work.units += job.units();
    work.most_sources = std::max(work.most_sources, job.sources.size());
    work.jobs.push_back(job);
  }
  return work;
}
