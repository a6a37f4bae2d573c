// In place of NVIDIA's libcufile: a library of its own, beside the module whose cards are
// the shim's, whose memory is the host's. TVMERGE_SHIM_CUFILE says what goes wrong:
//     start:N   cuFileDriverOpen ends with N
//     open:1    another part of the process has opened it
//     refuse:N  the Nth file, and every Nth after it, is not taken
//     short:N   N bytes at most are read at once
//     error:N   every read ends with -N (-1: EIO)
//     end:0     no read finds anything
//     again:N   every Nth read is interrupted
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

// The number that belongs to a word of the variable, or -1.
long asked(const char* word) {
  const char* const text = std::getenv("TVMERGE_SHIM_CUFILE");
  const std::size_t length = std::strlen(word);
  if (text == nullptr || std::strncmp(text, word, length) != 0) return -1;
  return text[length] == ':' ? std::atol(text + length + 1) : -1;
}

void complain(const char* what) {
  std::fprintf(stderr, "cuda_shim: libcufile: %s\n", what);
  std::abort();
}

std::atomic<bool> started{false}, strict{false};
std::atomic<long> files{0}, reads{0};

constexpr off_t kBlock = 4096;

// As direct reading wants it: whole blocks, into aligned memory.
ssize_t read_blocks(int descriptor, unsigned char* to, std::size_t size, off_t offset) {
  const off_t begin = offset / kBlock * kBlock;
  const off_t end = (offset + static_cast<off_t>(size) + kBlock - 1) / kBlock * kBlock;
  const auto whole = static_cast<std::size_t>(end - begin);
  const std::unique_ptr<void, decltype(&std::free)> held(
      std::aligned_alloc(kBlock, whole), &std::free);
  const ssize_t got = ::pread(descriptor, held.get(), whole, begin);
  if (got < 0) return got;
  const off_t found = std::min<off_t>(begin + got, offset + static_cast<off_t>(size));
  if (found <= offset) return 0;
  std::memcpy(to, static_cast<unsigned char*>(held.get()) + (offset - begin),
              static_cast<std::size_t>(found - offset));
  return found - offset;
}

}  // namespace

extern "C" {

struct CUfileError {
  int err, cu_err;
};
struct CUfileDescr {
  int type;
  union {
    int fd;
    void* handle;
  } handle;
  const void* fs_ops;
};

CUfileError cuFileSetParameterBool(int parameter, bool value) {
  if (started || asked("open") > 0) return {5026, 0};
  strict = parameter == 1 && !value;  // allow_compat_mode
  return {0, 0};
}

CUfileError cuFileDriverOpen() {
  if (!strict) complain("files may be read by way of the processor");
  if (const long error = asked("start"); error >= 0)
    return {static_cast<int>(error), 100};
  started = true;
  return {0, 0};
}

CUfileError cuFileHandleRegister(void** handle, CUfileDescr* description) {
  if (!started) complain("a file before the driver");
  if (description->type != 1 || description->fs_ops != nullptr) complain("no descriptor");
  const int flags = ::fcntl(description->handle.fd, F_GETFL);
  if (flags < 0 || (flags & O_DIRECT) == 0)
    complain("a file that is not open for direct reading");
  const long every = asked("refuse");
  if (every > 0 && ++files % every == 0) return {5008, 0};
  *handle = new int(description->handle.fd);
  return {0, 0};
}

void cuFileHandleDeregister(void* handle) { delete static_cast<int*>(handle); }

ssize_t cuFileRead(void* handle, void* allocation, std::size_t size, off_t offset,
                   off_t at) {
  if (asked("end") >= 0) return 0;
  if (const long error = asked("error"); error == 1) {
    errno = EIO;
    return -1;
  } else if (error > 1) {
    return -error;
  }
  if (const long every = asked("again"); every > 0 && ++reads % every == 0) {
    errno = EINTR;
    return -1;
  }
  if (const long most = asked("short"); most > 0)
    size = std::min<std::size_t>(size, most);
  return read_blocks(*static_cast<int*>(handle),
                     static_cast<unsigned char*>(allocation) + at, size, offset);
}

}  // extern "C"
