// Vector types. They may alias anything, as nvcc lets them: a float's bits are read as
// uint4 in 128-bit loads. UBSan reports one that is not aligned.
#pragma once

#define TVMERGE_SHIM_VECTOR(bytes) __attribute__((aligned(bytes), may_alias))

struct uint3 {
  unsigned x, y, z;
};
struct TVMERGE_SHIM_VECTOR(8) uint2 {
  unsigned x, y;
};
struct TVMERGE_SHIM_VECTOR(16) uint4 {
  unsigned x, y, z, w;
};
struct TVMERGE_SHIM_VECTOR(16) ulonglong2 {
  unsigned long long x, y;
};
struct TVMERGE_SHIM_VECTOR(8) float2 {
  float x, y;
};
struct TVMERGE_SHIM_VECTOR(16) float4 {
  float x, y, z, w;
};
struct TVMERGE_SHIM_VECTOR(16) double2 {
  double x, y;
};
#undef TVMERGE_SHIM_VECTOR

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) {
  return {x, y};
}
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
