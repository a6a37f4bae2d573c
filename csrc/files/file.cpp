#include "files/file.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.hpp"

namespace tvmerge {
namespace {

#ifdef SYS_cachestat
constexpr long kCachestat = SYS_cachestat;
#else
constexpr long kCachestat = 451;  // on every architecture
#endif

[[noreturn]] void fail(const std::string& path, const std::string& what, int code) {
  std::string advice;
  if (code == ENOSPC) advice = ". Free some space, or write to another disk";
  if (code == EMFILE) advice = ". Raise the limit on open files: ulimit -n 65536";
  throw Error(ErrorKind::storage,
              path + ": cannot " + what + ": " + std::strerror(code) + advice);
}

int open_descriptor(const std::string& path, int flags) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

int open_or_throw(const std::string& path, int flags, const char* what) {
  const int descriptor = open_descriptor(path, flags);
  if (descriptor < 0) fail(path, what, errno);
  return descriptor;
}

}  // namespace

File File::open_for_reading(const std::string& path) {
  return File(open_or_throw(path, O_RDONLY, "open for reading"), path);
}

File File::open_for_writing(const std::string& path) {
  return File(open_or_throw(path, O_WRONLY, "open for writing"), path);
}

std::optional<File> File::open_past_the_cache(const std::string& path) {
  const int descriptor = open_descriptor(path, O_RDONLY | O_DIRECT);
  if (descriptor < 0) return std::nullopt;
  return File(descriptor, path);
}

File::File(File&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void File::read(void* buffer, std::size_t size_bytes, std::uint64_t offset_bytes) const {
  char* to = static_cast<char*>(buffer);
  while (size_bytes > 0) {
    const ssize_t got =
        ::pread(descriptor_, to, size_bytes, static_cast<off_t>(offset_bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path_, "read at byte " + std::to_string(offset_bytes), errno);
    if (got == 0) fail_as_too_short(offset_bytes, size_bytes);
    to += got;
    size_bytes -= static_cast<std::size_t>(got);
    offset_bytes += static_cast<std::uint64_t>(got);
  }
}

void File::fail_as_too_short(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
  throw Error(ErrorKind::storage, path_ + ": no data at byte " +
                                      std::to_string(offset_bytes) + ", expected " +
                                      std::to_string(size_bytes) +
                                      " bytes more: it became shorter during the run");
}

void File::write(const void* buffer, std::size_t size_bytes,
                 std::uint64_t offset_bytes) const {
  const char* from = static_cast<const char*>(buffer);
  while (size_bytes > 0) {
    const ssize_t put =
        ::pwrite(descriptor_, from, size_bytes, static_cast<off_t>(offset_bytes));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail(path_, "write at byte " + std::to_string(offset_bytes), errno);
    from += put;
    size_bytes -= static_cast<std::size_t>(put);
    offset_bytes += static_cast<std::uint64_t>(put);
  }
}

unsigned char* File::map(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
  void* const at = ::mmap(nullptr, size_bytes, PROT_READ, MAP_SHARED, descriptor_,
                          static_cast<off_t>(offset_bytes));
  return at == MAP_FAILED ? nullptr : static_cast<unsigned char*>(at);
}

std::uint64_t File::size_bytes() const {
  struct stat found{};
  if (::fstat(descriptor_, &found) != 0) fail(path_, "find out the size", errno);
  return static_cast<std::uint64_t>(found.st_size);
}

std::uint64_t File::block_bytes() const {
  struct stat found{};
  if (::fstat(descriptor_, &found) != 0) fail(path_, "find out the block size", errno);
  return static_cast<std::uint64_t>(std::max<blksize_t>(found.st_blksize, 1));
}

bool File::clone(const File& source, std::uint64_t source_offset_bytes,
                 std::uint64_t size_bytes, std::uint64_t offset_bytes) const {
  file_clone_range range{};
  range.src_fd = source.descriptor_;
  range.src_offset = source_offset_bytes;
  range.src_length = size_bytes;
  range.dest_offset = offset_bytes;
  int refused = 0;
  do {
    refused = ::ioctl(descriptor_, FICLONERANGE, &range);
  } while (refused != 0 && errno == EINTR);
  // Whatever the reason: the caller writes instead, and that says what is wrong.
  return refused == 0;
}

bool File::is_cached(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
  const std::uint64_t range[2] = {offset_bytes, size_bytes};
  std::uint64_t pages[5] = {};  // cached, dirty, in write-back, evicted, lately evicted
  if (::syscall(kCachestat, descriptor_, range, pages, 0) != 0) return false;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return pages[0] >= (size_bytes + page - 1) / page;
}

bool File::tells_what_is_cached() {
  return ::syscall(kCachestat, -1, nullptr, nullptr, 0) == 0 || errno == EBADF;
}

void File::read_nothing_ahead() const {
  ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_RANDOM);
}

void File::will_need(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
  ::posix_fadvise(descriptor_, static_cast<off_t>(offset_bytes),
                  static_cast<off_t>(size_bytes), POSIX_FADV_WILLNEED);
}

void File::wont_need(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
  ::posix_fadvise(descriptor_, static_cast<off_t>(offset_bytes),
                  static_cast<off_t>(size_bytes), POSIX_FADV_DONTNEED);
}

void File::begin_write_back(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
  ::sync_file_range(descriptor_, static_cast<off64_t>(offset_bytes),
                    static_cast<off64_t>(size_bytes), SYNC_FILE_RANGE_WRITE);
}

// btrfs holds on to all of a reserved extent as long as a block of it is in use: what is
// cloned over the rest would save nothing.
bool File::reserves_well() const {
  struct statfs found{};
  return ::fstatfs(descriptor_, &found) != 0 || found.f_type != BTRFS_SUPER_MAGIC;
}

void File::allocate(const std::string& path, std::uint64_t size_bytes) {
  const File file(open_or_throw(path, O_WRONLY | O_CREAT, "create"), path);
  const auto size = static_cast<off_t>(size_bytes);
  while (size > 0 && file.reserves_well() &&
         ::fallocate(file.descriptor_, 0, 0, size) != 0) {
    if (errno == EINTR) continue;
    if (errno == EOPNOTSUPP || errno == ENOSYS) break;
    fail(path, "reserve " + std::to_string(size_bytes) + " bytes", errno);
  }
  while (::ftruncate(file.descriptor_, size) != 0) {
    if (errno != EINTR) fail(path, "set the size", errno);
  }
}

void reserve_descriptors(std::size_t count) {
  constexpr std::size_t kAlreadyOpen = 128;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = static_cast<rlim_t>(count + kAlreadyOpen);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  ::setrlimit(RLIMIT_NOFILE, &limit);  // Refused: opening the files says so.
}

bool has_address_space() {
  rlimit limit{};
  return ::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY;
}

}  // namespace tvmerge
