# tvmerge_engine with the kernels of csrc/cuda, or with csrc/cards/no_cuda.cpp.
set(TVMERGE_CUDA "AUTO" CACHE STRING
    "Kernels for NVIDIA cards: AUTO (where nvcc is found), ON, OFF; SHIM: they run on the processor, for tests")
# Empty: from Ampere to what this nvcc knows, and PTX for what comes after.
set(TVMERGE_CUDA_ARCHITECTURES "" CACHE STRING "Architectures to compile for")
set(cuda_sources csrc/cuda/card.cu csrc/cuda/combine.cu csrc/cuda/consensus.cu
                 csrc/cuda/delta_sums.cu csrc/cuda/digest.cu csrc/cuda/gram.cu csrc/cuda/scan.cu)

# Parameters of our kernels are larger than older ones take.
set(least_cuda 12.1)

set(cuda ${TVMERGE_CUDA})
if(cuda STREQUAL "AUTO")
  include(CheckLanguage)
  set(CMAKE_CUDA_ARCHITECTURES 80) # of what is tried out
  check_language(CUDA)
  set(cuda OFF)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS least_cuda)
      message(STATUS "tvmerge: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, expected ${least_cuda} or later")
    else()
      set(cuda ON)
    endif()
  endif()
endif()
message(STATUS "tvmerge: CUDA ${cuda}")

if(cuda STREQUAL "OFF")
  target_sources(tvmerge_engine PRIVATE csrc/cards/no_cuda.cpp)
elseif(cuda STREQUAL "SHIM")
  file(GLOB shim_sources tests/cards/cuda_shim/*.cpp)
  list(FILTER shim_sources EXCLUDE REGEX libcufile) # a library of its own
  set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
  add_library(tvmerge_cuda OBJECT ${cuda_sources} ${shim_sources})
  target_include_directories(tvmerge_cuda PRIVATE csrc tests/cards/cuda_shim)
  target_compile_options(
    tvmerge_cuda PRIVATE -xc++ -fno-strict-aliasing -Wno-unknown-pragmas
                         $<TARGET_PROPERTY:tvmerge_engine,INTERFACE_COMPILE_OPTIONS>)
else()
  set(CMAKE_CUDA_ARCHITECTURES 80)
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS least_cuda)
    message(FATAL_ERROR "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is too old: expected ${least_cuda} or later, "
                        "or TVMERGE_CUDA=OFF")
  endif()
  set(architectures ${TVMERGE_CUDA_ARCHITECTURES})
  if(NOT architectures AND CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
    set(architectures 80-real 86-real 89-real 90)
  elseif(NOT architectures)
    set(architectures 80-real 86-real 89-real 90-real 100)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${architectures})
  set(CMAKE_CUDA_STANDARD 17)
  find_package(CUDAToolkit REQUIRED)
  add_library(tvmerge_cuda OBJECT ${cuda_sources})
  target_include_directories(tvmerge_cuda PRIVATE csrc)
  # As on the processor: every fused multiply-add is written out. Division and subnormals are
  # IEEE's by default.
  target_compile_options(tvmerge_cuda PRIVATE -fmad=false --expt-relaxed-constexpr
                                              -Xcompiler=-Wall,-Wextra)
  target_link_libraries(tvmerge_engine PRIVATE CUDA::cudart_static)
endif()
if(TARGET tvmerge_cuda)
  target_sources(tvmerge_engine PRIVATE $<TARGET_OBJECTS:tvmerge_cuda>)
endif()
