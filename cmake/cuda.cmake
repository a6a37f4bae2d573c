# tvmerge_engine with the kernels of csrc/cuda, or with csrc/no_cuda.cpp.
set(TVMERGE_CUDA "AUTO" CACHE STRING
    "Kernels for NVIDIA cards: AUTO (where nvcc is found), ON, OFF; SHIM: they run on the processor, for tests")
# Ampere to Blackwell, and PTX for what comes after.
set(TVMERGE_CUDA_ARCHITECTURES "80-real;86-real;89-real;90-real;100" CACHE STRING
    "Architectures to compile for")
set(cuda_sources csrc/cuda/card.cu csrc/cuda/combine.cu csrc/cuda/consensus.cu
                 csrc/cuda/delta_sums.cu csrc/cuda/digest.cu csrc/cuda/gram.cu csrc/cuda/scan.cu)

set(cuda ${TVMERGE_CUDA})
if(cuda STREQUAL "AUTO")
  include(CheckLanguage)
  set(CMAKE_CUDA_ARCHITECTURES 80) # of what is tried out
  check_language(CUDA)
  set(cuda OFF)
  if(CMAKE_CUDA_COMPILER)
    set(cuda ON)
  endif()
endif()
message(STATUS "tvmerge: CUDA ${cuda}")

if(cuda STREQUAL "OFF")
  target_sources(tvmerge_engine PRIVATE csrc/no_cuda.cpp)
elseif(cuda STREQUAL "SHIM")
  file(GLOB shim_sources tests/cuda_shim/*.cpp)
  set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
  add_library(tvmerge_cuda OBJECT ${cuda_sources} ${shim_sources})
  target_include_directories(tvmerge_cuda PRIVATE csrc tests/cuda_shim)
  target_compile_options(
    tvmerge_cuda PRIVATE -xc++ -fno-strict-aliasing -Wno-unknown-pragmas
                         $<TARGET_PROPERTY:tvmerge_engine,INTERFACE_COMPILE_OPTIONS>)
else()
  set(CMAKE_CUDA_ARCHITECTURES ${TVMERGE_CUDA_ARCHITECTURES})
  enable_language(CUDA)
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
