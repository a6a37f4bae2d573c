// The CUDA runtime on the CPU, for tests: found instead of NVIDIA's header, it lets
// `g++ -x c++` build the project's .cu files, and their kernels really run. Wrong results
// on a card that depend on luck are made to happen here:
// - a fiber per CUDA thread (block.cpp), threads and blocks in the order that
//   TVMERGE_SHIM_ORDER says: ascending (the default), descending or random;
// - streams run nothing until somebody waits, and then more than was waited for, drawn
//   from TVMERGE_SHIM_SEED (streams.cpp); with TVMERGE_SHIM_EAGER=1 all runs at once;
// - memory is poisoned with 0xCD, and comes from malloc: ASan sees what runs over
//   (memory.cpp).
// What it finds is printed, and is cudaErrorLaunchFailure from the next synchronisation
// on, until cudaDeviceReset. The machine is TVMERGE_SHIM_DEVICES cards (1; -1 is no
// driver) of TVMERGE_SHIM_MEMORY bytes (1 GiB) and TVMERGE_SHIM_CAPABILITY (90).
// TVMERGE_SHIM_FAIL=malloc:N, hostalloc:N, copy:N or launch:N fails the N-th such call,
// with N = 0 all of them; refuse:N is a copy that is refused, after which all else goes
// on. It cannot show weak memory ordering, races within an operation, or limits of
// registers.
#pragma once

#include "api.hpp"
#include "builtins.hpp"
#include "launch.hpp"
#include "vectors.hpp"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// TVMERGE_LAUNCH((kernel<A, B>), grid, block, stream, arguments...)
#define TVMERGE_LAUNCH(kernel, ...) ::cuda_shim::launch(#kernel, kernel, __VA_ARGS__)

// As aligned as the type demands and not more; the lambda's type tells apart places and
// instances of templates.
#define TVMERGE_SHARED(type, name, count) \
  auto& name = ::cuda_shim::shared<type[count]>([] {})
