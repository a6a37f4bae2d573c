// The runtime's functions for streams and events.
#include <algorithm>

#include "streams.hpp"

using namespace cuda_shim;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call([&] {
    // Without the flag it would wait for the default stream, which is not told here.
    if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
    state().streams.push_back(
        std::make_shared<CUstream_st>(CUstream_st{current_device()}));
    *stream = state().streams.back().get();
    return cudaSuccess;
  });
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return release([&] {
    for (const auto& one : state().streams) {
      if (one.get() != handle || one->destroyed) continue;
      one->destroyed = true;
      forget_finished_streams();
      return cudaSuccess;
    }
    complain("destroys a stream that does not exist (any more)");
    return cudaErrorInvalidResourceHandle;
  });
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return call([&] {
    const auto stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    drain(*stream);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  return call([&] {
    const auto stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    run_some(nullptr);
    return stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
  });
}
cudaError_t cudaDeviceSynchronize() {
  return call([] {
    drain_device(current_device());
    return cudaSuccess;
  });
}
cudaError_t cudaDeviceReset() {
  const std::lock_guard<std::mutex> lock(state().mutex);
  for (const auto& stream : state().streams) {
    for (const Operation& one : stream->queue) {
      if (one.records) one.records->done = true;
    }
    stream->queue.clear();
  }
  forget_finished_streams();
  for (Device& device : state().devices) device.error = cudaSuccess;
  state().calls.clear();
  remember_nothing();
  return cudaSuccess;
}

namespace {
std::shared_ptr<CUevent_st> find_event(cudaEvent_t handle) {
  for (const auto& one : state().events) {
    if (one.get() == handle) return one;
  }
  complain("an event that does not exist (any more)");
  return nullptr;
}
}  // namespace

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call([&] {
    const bool timing = !(flags & cudaEventDisableTiming);
    state().events.push_back(
        std::make_shared<CUevent_st>(CUevent_st{current_device(), timing}));
    *event = state().events.back().get();
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  return release([&] {
    const auto event = find_event(handle);
    if (!event) return cudaErrorInvalidResourceHandle;
    auto& events = state().events;
    events.erase(std::find(events.begin(), events.end(), event));
    return cudaSuccess;
  });
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  return call([&] {
    const auto event = find_event(handle);
    const auto stream = find_stream(stream_handle);
    if (!event || !stream) return cudaErrorInvalidResourceHandle;
    if (event->device != stream->device) {
      complain("an event of device %d is recorded on device %d", event->device,
               stream->device);
      return cudaErrorInvalidResourceHandle;
    }
    event->last = std::make_shared<Record>();
    event->last->stream = stream;
    Operation operation;
    operation.records = event->last;
    enqueue(stream, std::move(operation));
    return cudaSuccess;
  });
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle,
                                unsigned) {
  return call([&] {
    const auto event = find_event(handle);
    const auto stream = find_stream(stream_handle);
    if (!event || !stream) return cudaErrorInvalidResourceHandle;
    Operation operation;
    operation.awaited = event->last;
    if (event->last) enqueue(stream, std::move(operation));
    return cudaSuccess;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return call([&] {
    const auto event = find_event(handle);
    if (!event) return cudaErrorInvalidResourceHandle;
    if (event->last) complete(*event->last);
    return cudaSuccess;
  });
}
cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return call([&] {
    const auto event = find_event(handle);
    if (!event) return cudaErrorInvalidResourceHandle;
    run_some(nullptr);
    return !event->last || event->last->done ? cudaSuccess : cudaErrorNotReady;
  });
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start,
                                 cudaEvent_t end) {
  return call([&] {
    const auto from = find_event(start), to = find_event(end);
    if (!from || !to || !from->timing || !to->timing || !from->last || !to->last) {
      return cudaErrorInvalidResourceHandle;
    }
    if (!from->last->done || !to->last->done) return cudaErrorNotReady;
    *milliseconds =
        std::chrono::duration<float, std::milli>(to->last->when - from->last->when)
            .count();
    return cudaSuccess;
  });
}
