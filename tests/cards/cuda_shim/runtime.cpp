// Errors, devices and settings.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "state.hpp"
#include "streams.hpp"

namespace cuda_shim {
namespace {

constexpr int kVersion = 13000;
thread_local cudaError_t last_error = cudaSuccess;
thread_local int chosen_device = 0;

}  // namespace

State& state() {
  static State* const state = new State;  // outlives all that may still call at exit
  return *state;
}

long setting(const char* name, long otherwise) {
  const char* const text = std::getenv(name);
  return text && *text ? std::atol(text) : otherwise;
}

std::uint64_t draw(std::uint64_t below) {
  const auto seed = static_cast<std::uint64_t>(setting("TVMERGE_SHIM_SEED", 1));
  std::uint64_t x = seed * 0xd1342543de82ef95u + ++state().draws * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;  // splitmix64 (Steele et al., 2014)
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return (x ^ (x >> 31)) % below;
}

void complain(const char* format, ...) {
  std::fputs("cuda_shim: ", stderr);
  std::va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
}

bool fails(const char* kind) {
  const long count = ++state().calls[kind];
  const char* const named = std::getenv("TVMERGE_SHIM_FAIL");
  const std::size_t length = std::strlen(kind);
  if (!named || std::strncmp(named, kind, length) != 0 || named[length] != ':')
    return false;
  const long number = std::atol(named + length + 1);
  return number == count || number == 0;
}

int device_count() {
  return static_cast<int>(
      std::min<long>(setting("TVMERGE_SHIM_DEVICES", 1), kMaxDevices));
}
int current_device() { return chosen_device; }

cudaError_t health() {
  if (device_count() < 0) return cudaErrorInsufficientDriver;
  if (device_count() == 0) return cudaErrorNoDevice;
  if (chosen_device >= device_count()) return cudaErrorInvalidDevice;
  return state().devices[chosen_device].error;
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
void remember_nothing() { last_error = cudaSuccess; }

}  // namespace cuda_shim

using namespace cuda_shim;

cudaError_t cudaPeekAtLastError() {
  const std::lock_guard<std::mutex> lock(state().mutex);
  const cudaError_t lasting = state().devices[chosen_device].error;
  return lasting == cudaSuccess ? last_error : lasting;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define NAME(error) \
  case error:       \
    return #error;
    NAME(cudaSuccess)
    NAME(cudaErrorInvalidValue)
    NAME(cudaErrorMemoryAllocation)
    NAME(cudaErrorInvalidConfiguration)
    NAME(cudaErrorInvalidMemcpyDirection)
    NAME(cudaErrorInsufficientDriver)
    NAME(cudaErrorNoDevice)
    NAME(cudaErrorInvalidDevice)
    NAME(cudaErrorInvalidResourceHandle)
    NAME(cudaErrorNotReady)
    NAME(cudaErrorLaunchFailure)
#undef NAME
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {  // as CUDA says it, those that a user may meet
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    default:
      return cudaGetErrorName(error);
  }
}

// The versions are known without a card.
cudaError_t cudaDriverGetVersion(int* version) {
  *version = device_count() < 0 ? 0 : kVersion;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = std::max(device_count(), 0);
  return remember(device_count() < 0    ? cudaErrorInsufficientDriver
                  : device_count() == 0 ? cudaErrorNoDevice
                                        : cudaSuccess);
}
cudaError_t cudaSetDevice(int device) {
  if (device_count() <= 0) return cudaGetDeviceCount(&device);
  if (device < 0 || device >= device_count()) return remember(cudaErrorInvalidDevice);
  chosen_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  if (device_count() <= 0) return cudaGetDeviceCount(device);
  *device = chosen_device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count)) return error;
  if (device < 0 || device >= count) return remember(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "cuda_shim %d", device);
  properties->totalGlobalMem = memory_of_device();
  properties->sharedMemPerBlock = kSharedMemory;
  const long capability = setting("TVMERGE_SHIM_CAPABILITY", 90);
  properties->major = static_cast<int>(capability / 10);
  properties->minor = static_cast<int>(capability % 10);
  properties->multiProcessorCount = 4;  // few, so that a loop over the grid goes round
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = kMaxBlock;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->regsPerBlock = 65536;
  properties->l2CacheSize = 50 << 20;
  properties->memoryBusWidth = 5120;
  properties->asyncEngineCount = 3;
  properties->unifiedAddressing = 1;
  properties->pciBusID = device + 1;
  return cudaSuccess;
}
