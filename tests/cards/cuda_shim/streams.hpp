// Streams, events, and the operations they queue.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>

#include "state.hpp"

namespace cuda_shim {

// An event as it was recorded once: a wait is for that, whatever is recorded later.
struct Record {
  std::shared_ptr<CUstream_st> stream;
  bool done = false;
  std::chrono::steady_clock::time_point when{};
};

struct Operation {
  std::function<bool()> run;          // false: the device is lost
  std::shared_ptr<Record> awaited{};  // must be done before
  std::shared_ptr<Record> records{};
  // The host memory that it reads or writes.
  std::uintptr_t host = 0;
  std::size_t host_size = 0;
};

// Under the lock, all of them.
// Null: there is no such stream, or it is of another device than the current one.
std::shared_ptr<CUstream_st> find_stream(cudaStream_t handle);
void enqueue(const std::shared_ptr<CUstream_st>& stream, Operation operation);
void drain(CUstream_st& stream);
void complete(const Record& record);
void drain_device(int device);
// Up to three operations of any streams but this.
void run_some(const CUstream_st* except);
void forget_finished_streams();
bool host_memory_queued(const void* memory, std::size_t size);

// block.cpp: false if it complained.
constexpr unsigned kMaxBlock = 1024;
constexpr std::size_t kSharedMemory = 48 << 10;
bool run_kernel(const char* name, const std::function<void()>& thread, unsigned grid,
                unsigned block);

std::size_t memory_of_device();  // memory.cpp

}  // namespace cuda_shim

struct CUstream_st {
  int device;
  bool destroyed = false;
  std::deque<cuda_shim::Operation> queue{};
};
struct CUevent_st {
  int device;
  bool timing;
  std::shared_ptr<cuda_shim::Record> last{};
};
