// When operations run. Nothing runs at enqueue; a wait runs what it waits for, and before
// each step up to three operations, drawn at random, of other streams whose turn it could
// be. So a result read without waiting is missing, and an order between streams that no
// event enforces does not hold for some seed.
#include "streams.hpp"

#include <algorithm>
#include <vector>

#include "launch.hpp"

namespace cuda_shim {
namespace {

bool ready(const CUstream_st& stream) {
  return !stream.queue.empty() &&
         (!stream.queue.front().awaited || stream.queue.front().awaited->done);
}

void run_first(CUstream_st& stream) {
  const Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  Device& device = state().devices[stream.device];
  // After an error the rest is dropped; who waits for it learns of the error.
  if (operation.run && device.error == cudaSuccess && !operation.run()) {
    device.error = cudaErrorLaunchFailure;
  }
  if (operation.records) {
    operation.records->done = true;
    operation.records->when = std::chrono::steady_clock::now();
  }
}

}  // namespace

void run_some(const CUstream_st* except) {
  for (std::uint64_t left = draw(4); left > 0; --left) {
    std::vector<CUstream_st*> others;
    for (const auto& one : state().streams) {
      if (one.get() != except && ready(*one)) others.push_back(one.get());
    }
    if (others.empty()) return;
    run_first(*others[draw(others.size())]);
  }
}

namespace {
// Ends: what an operation awaits was enqueued before it.
void advance(CUstream_st& stream, const std::function<bool()>& done) {
  while (!done()) {
    run_some(&stream);
    if (done()) return;  // an inner advance may have run this stream as another one
    if (ready(stream)) {
      run_first(stream);
    } else {
      const std::shared_ptr<Record> awaited = stream.queue.front().awaited;
      advance(*awaited->stream, [&] { return awaited->done; });
    }
  }
}

}  // namespace

void forget_finished_streams() {
  auto& streams = state().streams;
  streams.erase(std::remove_if(
                    streams.begin(), streams.end(),
                    [](const auto& one) { return one->destroyed && one->queue.empty(); }),
                streams.end());
}

std::shared_ptr<CUstream_st> find_stream(cudaStream_t handle) {
  auto& streams = state().streams;
  if (!handle) {
    auto& stream = state().devices[current_device()].default_stream;
    if (!stream) {
      stream = std::make_shared<CUstream_st>(CUstream_st{current_device()});
      streams.push_back(stream);
    }
    return stream;
  }
  for (const auto& one : streams) {
    if (one.get() != handle || one->destroyed) continue;
    if (one->device == current_device()) return one;
    complain("a stream of device %d, while device %d is set", one->device,
             current_device());
    return nullptr;
  }
  complain("a stream that does not exist (any more)");
  return nullptr;
}

void enqueue(const std::shared_ptr<CUstream_st>& stream, Operation operation) {
  stream->queue.push_back(std::move(operation));
  if (setting("TVMERGE_SHIM_EAGER", 0)) drain(*stream);
}

void drain(CUstream_st& stream) {
  advance(stream, [&] { return stream.queue.empty(); });
}

void complete(const Record& record) {
  const std::shared_ptr<CUstream_st> stream = record.stream;
  advance(*stream, [&] { return record.done; });
}

void drain_device(int device) {
  const auto streams = state().streams;  // a copy: they outlive this
  for (const auto& one : streams) {
    if (one->device == device) drain(*one);
  }
  forget_finished_streams();
}

bool host_memory_queued(const void* memory, std::size_t size) {
  const auto begin = reinterpret_cast<std::uintptr_t>(memory);
  for (const auto& stream : state().streams) {
    for (const Operation& one : stream->queue) {
      if (one.host < begin + size && begin < one.host + one.host_size) return true;
    }
  }
  return false;
}

void enqueue_kernel(const char* name, std::function<void()> thread, unsigned grid,
                    unsigned block, cudaStream_t handle) {
  call([&] {
    const auto stream = find_stream(handle);
    if (!stream) return cudaErrorInvalidResourceHandle;
    if (grid == 0 || grid > 0x7fffffffu || block == 0 || block > kMaxBlock) {
      complain("%s: %u blocks of %u threads", name, grid, block);
      return cudaErrorInvalidConfiguration;
    }
    if (fails("launch")) {
      return state().devices[current_device()].error = cudaErrorLaunchFailure;
    }
    Operation operation;
    operation.run = [=, thread = std::move(thread)] {
      return run_kernel(name, thread, grid, block);
    };
    enqueue(stream, std::move(operation));
    return cudaSuccess;
  });
}

}  // namespace cuda_shim
