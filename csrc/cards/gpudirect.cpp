#include "cards/gpudirect.hpp"

#include <dlfcn.h>
#include <sys/types.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "core/error.hpp"

namespace tvmerge {
namespace {

// Of less the call costs more than the copy that it saves.
constexpr std::uint64_t kLeastBytes = std::uint64_t{64} * 1024;
constexpr int kNoDriver = 5001;  // CU_FILE_DRIVER_NOT_INITIALIZED
constexpr int kDescriptor = 1;   // CU_FILE_HANDLE_TYPE_OPAQUE_FD
constexpr int kByProcessor = 1;  // CUFILE_PARAM_PROPERTIES_ALLOW_COMPAT_MODE
constexpr auto kAdvice = ". Unset TVMERGE_GPUDIRECT: files are then read as ever";
constexpr auto kInstall = ". pip install 'tvmerge[gpudirect]' has one that will do";

// As cufile.h declares them (CUfileError_t, CUfileDescr_t).
struct Status {
  int error, cuda_error;
};
struct Description {
  int type;
  union {
    int descriptor;
    void* handle;
  };
  const void* operations;
};

}  // namespace

struct CuFile {
  Status (*start)();
  Status (*take)(void** handle, Description* description);
  void (*let_go)(void* handle);
  ssize_t (*read)(void* handle, void* allocation, std::size_t size_bytes,
                  off_t offset_bytes, off_t at);
};

namespace {

[[noreturn]] void fail_to_load(const std::string& what) {
  throw Error(ErrorKind::card, "GPUDirect Storage: " + what);
}

template <typename Function>
void find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(::dlsym(library, name));
  if (function == nullptr) fail_to_load(::dlerror() + std::string(kInstall));
}

CuFile loaded(const std::string& path) {
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fail_to_load(::dlerror() + std::string(kInstall));
  CuFile found{};
  find(library, "cuFileDriverOpen", found.start);
  find(library, "cuFileHandleRegister", found.take);
  find(library, "cuFileHandleDeregister", found.let_go);
  find(library, "cuFileRead", found.read);
  Status (*set)(int parameter, bool value) = nullptr;
  find(library, "cuFileSetParameterBool", set);
  if (set(kByProcessor, false).error != 0) {
    fail_to_load(path +
                 " is in use already, by another part of this process: it may read "
                 "by way of the processor");
  }
  const Status status = found.start();
  if (status.error != 0) {
    fail_to_load(path + " does not start: cuFile error " + std::to_string(status.error) +
                 (status.error == kNoDriver
                      ? std::string(", the driver nvidia-fs is not loaded")
                      : ", CUDA error " + std::to_string(status.cuda_error)));
  }
  return found;
}

}  // namespace

const CuFile& load_cufile(const std::string& library) {
  static std::mutex mutex;
  static std::map<std::string, CuFile> found;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto held = found.find(library);
  return held != found.end() ? held->second
                             : found.emplace(library, loaded(library)).first->second;
}

std::unique_ptr<DirectFile> DirectFile::open(const CuFile& library,
                                             const std::string& path) {
  std::optional<File> file = File::open_past_the_cache(path);
  if (!file) return nullptr;
  Description description{kDescriptor, {file->descriptor()}, nullptr};
  void* handle = nullptr;
  if (library.take(&handle, &description).error != 0) return nullptr;
  return std::unique_ptr<DirectFile>(new DirectFile(library, std::move(*file), handle));
}

DirectFile::~DirectFile() { library_.let_go(handle_); }

bool DirectFile::suits(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
  return size_bytes >= kLeastBytes && !file_.is_cached(offset_bytes, size_bytes);
}

void DirectFile::read(unsigned char* allocation, std::uint64_t at,
                      std::uint64_t size_bytes, std::uint64_t offset_bytes) const {
  while (size_bytes > 0) {
    const ssize_t got =
        library_.read(handle_, allocation, size_bytes, static_cast<off_t>(offset_bytes),
                      static_cast<off_t>(at));
    const int code = errno;
    if (got == -1 && code == EINTR) continue;
    if (got < 0) {
      const std::string why = got == -1 ? std::string(std::strerror(code))
                                        : "cuFile error " + std::to_string(-got);
      throw Error(got == -1 ? ErrorKind::storage : ErrorKind::card,
                  file_.path() + ": a card cannot read at byte " +
                      std::to_string(offset_bytes) + ": " + why + kAdvice);
    }
    if (got == 0) file_.fail_as_too_short(offset_bytes, size_bytes);
    const auto read = static_cast<std::uint64_t>(got);
    size_bytes -= read;
    offset_bytes += read;
    at += read;
  }
}

}  // namespace tvmerge
