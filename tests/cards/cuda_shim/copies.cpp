// Copies, and whether what they name is where they say.
#include <cstring>

#include "streams.hpp"

namespace cuda_shim {
namespace {

std::uintptr_t address(const void* memory) {
  return reinterpret_cast<std::uintptr_t>(memory);
}

// The allocation that holds a byte, or the end.
Allocations::const_iterator find(const Allocations& allocations, const void* memory) {
  auto next = allocations.upper_bound(address(memory));
  if (next == allocations.begin()) return allocations.end();
  --next;
  return address(memory) - next->first < next->second.size ? next : allocations.end();
}

bool is_on_device(const char* call, const void* memory, std::size_t size) {
  const auto& all = state().device_memory;
  const auto found = find(all, memory);
  if (found == all.end()) {
    complain("%s: %p is no memory of a device", call, memory);
  } else if (address(memory) - found->first + size > found->second.size) {
    complain("%s: %zu bytes at %p run over their allocation of %zu by %zu", call, size,
             memory, found->second.size,
             address(memory) - found->first + size - found->second.size);
  } else if (found->second.device != current_device()) {
    complain("%s: %p is memory of device %d, while device %d is set", call, memory,
             found->second.device, current_device());
  } else {
    return true;
  }
  return false;
}

bool is_on_host(const char* call, const void* memory, std::size_t size) {
  const auto& all = state().device_memory;
  const auto next = all.lower_bound(address(memory));
  const bool meets = next != all.end() && next->first < address(memory) + size;
  if (!meets && find(all, memory) == all.end()) return true;
  complain("%s: %p is memory of a device, not of the host", call, memory);
  return false;
}

// The stream is found first: null if it cannot be.
cudaError_t copy(void* to, const void* from, std::size_t size, cudaMemcpyKind kind,
                 const std::shared_ptr<CUstream_st>& stream) {
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (fails("copy")) {
    return state().devices[current_device()].error = cudaErrorLaunchFailure;
  }
  if (size == 0) return cudaSuccess;
  if (fails("refuse")) return cudaErrorInvalidValue;
  const char* const call = "cudaMemcpy";
  const bool out = kind == cudaMemcpyDeviceToHost, in = kind == cudaMemcpyHostToDevice;
  if (!out && !in && kind != cudaMemcpyDeviceToDevice) {
    return cudaErrorInvalidMemcpyDirection;
  }
  if (!(in ? is_on_host(call, from, size) : is_on_device(call, from, size)) ||
      !(out ? is_on_host(call, to, size) : is_on_device(call, to, size))) {
    return cudaErrorInvalidValue;
  }
  if (address(to) < address(from) + size && address(from) < address(to) + size) {
    complain("%s: %p and %p overlap", call, to, from);
    return cudaErrorInvalidValue;
  }
  Operation operation;
  operation.run = [=] {
    std::memcpy(to, from, size);
    return true;
  };
  const void* const host = out ? to : in ? from : nullptr;
  if (host) {
    // What is read before it is there; unless it is the source of another copy yet.
    if (out && !host_memory_queued(to, size)) std::memset(to, kPoison, size);
    operation.host = address(host);
    operation.host_size = size;
  }
  enqueue(stream, std::move(operation));
  return cudaSuccess;
}

}  // namespace
}  // namespace cuda_shim

using namespace cuda_shim;

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size,
                            cudaMemcpyKind kind, cudaStream_t stream) {
  return call([&] { return copy(to, from, size, kind, find_stream(stream)); });
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t size,
                       cudaMemcpyKind kind) {
  return call([&] {
    const auto stream = find_stream(nullptr);
    const cudaError_t error = copy(to, from, size, kind, stream);
    if (error == cudaSuccess) drain(*stream);
    return error;
  });
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t size,
                            cudaStream_t handle) {
  return call([&] {
    const auto stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (size == 0) return cudaSuccess;
    if (!is_on_device("cudaMemset", memory, size)) return cudaErrorInvalidValue;
    Operation operation;
    operation.run = [=] {
      std::memset(memory, value, size);
      return true;
    };
    enqueue(stream, std::move(operation));
    return cudaSuccess;
  });
}
