// What the operating system alone takes for a merge: its reads and writes, from as many
// threads and in the same slices, with no arithmetic; and which of its calls does them
// fastest.
//     io_floor [key=value]... < jobs      prints JSON; benchmarks/floor.py writes the
//     jobs
//
// Jobs, one a line:   in PATH | out SIZE_BYTES PATH
//                     job ELEMENTS OUT OFFSET WIDTH [IN OFFSET WIDTH]...
// (WIDTH: of one element.) What it writes has no meaning.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "advice.hpp"
#include "ring.hpp"
#include "work.hpp"

namespace {

constexpr u64 kPage = 4096;       // what O_DIRECT asks of offsets, lengths and addresses
constexpr int kDontCache = 0x80;  // RWF_DONTCACHE, Linux 6.14

struct Options {
  std::map<std::string, std::string> texts{
      {"read", "pread"},   // pread | dontcache | direct | uring | uring-direct
      {"advice", "drop"},  // none | ahead | drop (ahead, and dropped behind)
      {"write",
       "pwrite"}};  // pwrite | flush (sync_file_range) | dontcache | direct | none
  std::map<std::string, u64> numbers{
      {"threads", 2},
      {"read_bytes", 1 << 20},   // of all inputs together
      {"write_bytes", 1 << 20},  // of one output
      {"window_bytes", 64 << 20},
      {"depth", 4}};  // units in flight per thread, uring only

  Options(int count, char** words) {
    for (int i = 1; i < count; ++i) {
      const std::string word = words[i];
      const std::string key = word.substr(0, word.find('='));
      const std::string value = word.substr(std::min(word.size(), key.size() + 1));
      if (texts.count(key)) {
        texts[key] = value;
      } else if (numbers.count(key)) {
        numbers[key] = std::stoull(value);
      } else {
        throw std::runtime_error("unknown option " + word);
      }
    }
    if (text("read").rfind("uring", 0) == 0)
      numbers["write_bytes"] = 1;  // one read, one write
  }
  [[nodiscard]] const std::string& text(const char* key) const { return texts.at(key); }
  [[nodiscard]] u64 number(const char* key) const { return numbers.at(key); }
};

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

class Run {
 public:
  Run(const Work& work, const Options& options)
      : work_(work),
        options_(options),
        direct_(options.text("read").find("direct") != std::string::npos) {
    for (const std::string& path : work.inputs) {
      inputs_.push_back(::open(path.c_str(), O_RDONLY | (direct_ ? O_DIRECT : 0)));
      if (inputs_.back() < 0) fail(path);
    }
    const std::string& write = options.text("write");
    for (std::size_t i = 0; i < work.outputs.size() && write != "none"; ++i) {
      const int flags = O_WRONLY | O_CREAT | O_EXCL | (write == "direct" ? O_DIRECT : 0);
      const auto size = static_cast<off_t>(work.output_sizes[i]);
      outputs_.push_back(::open(work.outputs[i].c_str(), flags, 0644));
      if (outputs_.back() < 0) fail(work.outputs[i]);
      if (::fallocate(outputs_.back(), 0, 0, size) != 0 && errno != EOPNOTSUPP) {
        fail(work.outputs[i]);
      }
      if (::ftruncate(outputs_.back(), size) != 0) fail(work.outputs[i]);
    }
    const u64 lag = 4 * options.number("threads") * options.number("depth");
    if (options.text("advice") != "none" && !direct_) {
      advice_ = std::make_unique<Advice>(work, inputs_, options.number("window_bytes"),
                                         lag, options.text("advice") == "drop");
    }
  }

  void run() {
    std::vector<std::thread> threads;
    for (u64 t = 0; t < options_.number("threads"); ++t) {
      threads.emplace_back([this] {
        try {
          options_.text("read").rfind("uring", 0) == 0 ? queued() : one_by_one();
        } catch (const std::exception& error) {
          std::fprintf(stderr, "io_floor: %s\n", error.what());
          std::_Exit(1);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const int file : outputs_) ::close(file);
  }

  std::atomic<u64> bytes_read{0}, bytes_written{0};

 private:
  using Room = std::unique_ptr<char, void (*)(void*)>;

  static Room room(u64 bytes) {
    Room made{static_cast<char*>(std::aligned_alloc(kPage, bytes)), std::free};
    std::memset(made.get(), 1, bytes);  // pages of its own, not the one of zeros
    return made;
  }
  // One slice of all inputs, each on pages of its own with one to spare on either side.
  [[nodiscard]] u64 slice_room() const {
    u64 bytes = options_.number("read_bytes");
    for (const Job& job : work_.jobs) {  // a slice is never below 1024 elements
      u64 width = 0;
      for (const Range& source : job.sources) width += source.width;
      bytes = std::max(bytes, width * job.slice);
    }
    return (bytes + work_.most_sources * 3 * kPage) / kPage * kPage;
  }

  // Calls take(file, to, size, offset) for every input of some elements of a job.
  template <typename Take>
  void each_read(const Unit& part, char* to, const Take& take) {
    for (const Range& source : part.job->sources) {
      u64 offset = source.offset + part.start * source.width;
      u64 size = part.count * source.width;
      bytes_read.fetch_add(size, std::memory_order_relaxed);
      if (direct_) {
        size = (size + offset % kPage + kPage - 1) / kPage * kPage;
        offset -= offset % kPage;
      }
      take(inputs_[source.file], to, size, offset);
      to += (size + kPage - 1) / kPage * kPage;
    }
  }

  void one_by_one() {
    const Room buffer = room(slice_room());
    const Room out = room(out_room());
    const int flags = options_.text("read") == "dontcache" ? kDontCache : 0;
    for (u64 number = next_++; number < work_.units; number = next_++) {
      const Unit unit(work_, number);
      if (advice_) advice_->before(number);
      const u64 end = unit.start + unit.count;
      for (Unit part = unit; part.start < end; part.start += unit.job->slice) {
        part.count = std::min(unit.job->slice, end - part.start);
        each_read(part, buffer.get(), [&](int file, char* to, u64 size, u64 offset) {
          read_whole(file, to, size, offset, flags);
        });
      }
      write(unit, out.get());
    }
  }

  void read_whole(int file, char* to, u64 size, u64 offset, int flags) const {
    while (size > 0) {
      const iovec part{to, size};
      const ssize_t got = ::preadv2(file, &part, 1, static_cast<off_t>(offset), flags);
      if (got < 0) fail("read");
      if (direct_ && static_cast<u64>(got) < size) return;  // rounded up beyond the end
      if (got == 0) throw std::runtime_error("an input is shorter than its header says");
      to += got, offset += static_cast<u64>(got), size -= static_cast<u64>(got);
    }
  }

  struct Flight {
    u64 number = 0;
    std::size_t missing = 0;
    char* buffer = nullptr;
  };

  // Several units in flight: while one is written the next are read.
  void queued() {
    const u64 depth = options_.number("depth"), stride = slice_room();
    const Room buffer = room(stride * depth);
    const Room out = room(out_room());
    Ring ring(static_cast<unsigned>(depth * work_.most_sources));
    std::vector<Flight> flights(depth);
    for (u64 i = 0; i < depth; ++i) {
      flights[i].buffer = buffer.get() + i * stride;
      launch(ring, flights[i], i);
    }
    for (u64 turn = 0; flights[turn].number < work_.units; turn = (turn + 1) % depth) {
      while (flights[turn].missing > 0) {
        u64 tag = 0;
        int result = 0;
        if (!ring.take(tag, result)) {
          ring.enter(true);
        } else if (result <= 0) {
          throw std::runtime_error("io_uring: a read failed");
        } else {
          --flights[tag].missing;
        }
      }
      write(Unit(work_, flights[turn].number), out.get());
      launch(ring, flights[turn], turn);
    }
  }

  void launch(Ring& ring, Flight& flight, u64 tag) {
    flight.number = next_++;
    if (flight.number >= work_.units) return;
    const Unit unit(work_, flight.number);
    if (advice_) advice_->before(flight.number);
    flight.missing = unit.job->sources.size();
    each_read(unit, flight.buffer, [&](int file, char* to, u64 size, u64 offset) {
      ring.read(file, to, static_cast<std::uint32_t>(size), offset, tag);
    });
    ring.enter(false);
  }

  [[nodiscard]] u64 out_room() const {
    u64 bytes = 0;
    for (const Job& job : work_.jobs) bytes = std::max(bytes, job.unit * job.out.width);
    return (bytes + 3 * kPage) / kPage * kPage;
  }

  void write(const Unit& unit, const char* from) {
    if (outputs_.empty()) return;
    const Range& out = unit.job->out;
    u64 offset = out.offset + unit.start * out.width, size = unit.count * out.width;
    bytes_written.fetch_add(size, std::memory_order_relaxed);
    const std::string& how = options_.text("write");
    if (how == "direct") {  // whole pages: neighbours overwrite each other's edges
      size = (size + offset % kPage + kPage - 1) / kPage * kPage;
      offset -= offset % kPage;
    }
    const u64 begin = offset, whole = size;
    while (size > 0) {
      const iovec part{const_cast<char*>(from), size};
      const ssize_t put =
          ::pwritev2(outputs_[out.file], &part, 1, static_cast<off_t>(offset),
                     how == "dontcache" ? kDontCache : 0);
      if (put < 0) fail("write");
      from += put, offset += static_cast<u64>(put), size -= static_cast<u64>(put);
    }
    if (how == "flush") {
      ::sync_file_range(outputs_[out.file], static_cast<off_t>(begin),
                        static_cast<off_t>(whole), SYNC_FILE_RANGE_WRITE);
    }
  }

  const Work& work_;
  const Options& options_;
  const bool direct_;
  std::vector<int> inputs_, outputs_;
  std::unique_ptr<Advice> advice_;
  std::atomic<u64> next_{0};
};

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

}  // namespace

int main(int count, char** words) {
  try {
    const Options options(count, words);
    const Work work =
        read_work(std::cin, options.number("read_bytes"), options.number("write_bytes"));
    const auto start = std::chrono::steady_clock::now();
    Run run(work, options);
    run.run();
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const u64 read = run.bytes_read, written = run.bytes_written;
    std::printf(
        "{\"seconds\": %.6f, \"cpu_seconds\": %.6f, \"bytes_read\": %llu, "
        "\"bytes_written\": %llu, \"gb_per_s\": %.3f}\n",
        seconds, cpu_seconds(), static_cast<unsigned long long>(read),
        static_cast<unsigned long long>(written),
        static_cast<double>(read + written) / seconds / 1e9);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "io_floor: %s\n", error.what());
    return 1;
  }
  return 0;
}
