// Inner products: kernels_measure.hpp on a card, bit for bit.
#include "cuda/deltas.cuh"

namespace tvmerge::cuda {
namespace {

constexpr unsigned kRowTile = 512;  // of kernels_measure.hpp

struct Rows {
  Terms<kMostTerms> terms;
  double coefficients[kMostCoefficients];  // one row behind the other
  unsigned row_count;
  std::size_t count;
};

// Where the results of the first level lie: per tile all pairs of rows, and the counts.
struct RowRoom {
  double* products;
  std::uint64_t* nonzero;
};

__device__ __forceinline__ unsigned pairs_of(unsigned rows) {
  return rows * (rows + 1) / 2;
}

// Row r at element i of the slice.
__device__ __forceinline__ double row_at(const Rows& rows, unsigned r, std::size_t i) {
  double sum = 0;
  bool first = true;
  for (unsigned k = 0; k < rows.terms.count; ++k) {
    const double c = rows.coefficients[r * rows.terms.count + k];
    if (c == 0) continue;  // 0 * infinity would be NaN
    const double x = value_at<double>(rows.terms.at[k], i);
    sum = first ? c * x : fused(c, x, sum);
    first = false;
  }
  return sum;
}

// One pair (r, s), s <= r, of one tile: all its lanes.
__global__ void __launch_bounds__(kThreads, 2) multiply_rows(Rows rows, RowRoom room) {
  const unsigned pairs = pairs_of(rows.row_count);
  const std::size_t unit = thread_number() / kSumLanes;
  const unsigned lane = threadIdx.x % kSumLanes;
  const std::size_t tile = unit / pairs, start = tile * kRowTile;
  auto pair = static_cast<unsigned>(unit % pairs);
  unsigned r = 0;
  for (unsigned held = pair; held > r; held -= r) ++r;
  const unsigned s = pair - pairs_of(r);
  const std::size_t end = tile_end(start, rows.count, kRowTile);
  double sum = 0;
  unsigned nonzero = 0;
  for (std::size_t i = start + lane; i < end; i += kSumLanes) {
    const double a = row_at(rows, r, i), b = s == r ? a : row_at(rows, s, i);
    sum += a * b;
    nonzero += a != 0 ? 1 : 0;
  }
  const double product = total<kSumLanes>(sum);
  const unsigned found = count_all<kSumLanes>(nonzero);
  if (lane != 0 || start >= rows.count) return;
  room.products[unit] = product;
  if (r == s) room.nonzero[tile * rows.row_count + r] = found;
}

// All pairs of one tile, where all terms are of one dtype and few: every element is read
// once.
constexpr unsigned kFew = 4;
struct FewRows {
  Terms<kFew> terms;
  double coefficients[kFew][kFew];  // 0 behind the last row and the last term
  unsigned row_count;
  std::size_t count;
};

template <Dtype D>
__global__ void __launch_bounds__(kThreads, 2) multiply_few(FewRows rows, RowRoom room) {
  const std::size_t tile = thread_number() / kSumLanes, start = tile * kRowTile;
  const std::size_t end = tile_end(start, rows.count, kRowTile);
  double sums[kFew][kFew]{};
  unsigned nonzero[kFew]{};
#pragma unroll 2
  for (std::size_t i = start + threadIdx.x % kSumLanes; i < end; i += kSumLanes) {
    double x[kFew]{}, y[kFew]{};
#pragma unroll
    for (unsigned k = 0; k < kFew; ++k) {
      if (k < rows.terms.count)
        x[k] = static_cast<double>(load<D>(rows.terms.at[k].data, i));
    }
#pragma unroll
    for (unsigned r = 0; r < kFew; ++r) {
      bool first = true;
#pragma unroll
      for (unsigned k = 0; k < kFew; ++k) {
        const double c = rows.coefficients[r][k];
        if (c == 0) continue;  // 0 * infinity would be NaN
        y[r] = first ? c * x[k] : fused(c, x[k], y[r]);
        first = false;
      }
      nonzero[r] += y[r] != 0 ? 1 : 0;
#pragma unroll
      for (unsigned s = 0; s <= r; ++s) sums[r][s] += y[r] * y[s];
    }
  }
  const unsigned pairs = pairs_of(rows.row_count);
#pragma unroll
  for (unsigned r = 0; r < kFew; ++r) {
    const unsigned found = count_all<kSumLanes>(nonzero[r]);
#pragma unroll
    for (unsigned s = 0; s <= r; ++s) {
      const double product = total<kSumLanes>(sums[r][s]);
      if (r >= rows.row_count || start >= rows.count || threadIdx.x % kSumLanes != 0)
        continue;
      room.products[tile * pairs + pairs_of(r) + s] = product;
      if (r == s) room.nonzero[tile * rows.row_count + r] = found;
    }
  }
}

// One pair of one stretch of kSumElements.
__global__ void __launch_bounds__(kThreads)
    add_tiles(RowRoom room, unsigned rows, std::size_t count, double* gram,
              std::uint64_t* nonzero) {
  const unsigned pairs = pairs_of(rows);
  const std::size_t stretch = thread_number() / pairs;
  const auto pair = static_cast<unsigned>(thread_number() % pairs);
  if (stretch * kSumElements >= count) return;
  const std::size_t tiles = (count + kRowTile - 1) / kRowTile;
  constexpr std::size_t kEach = kSumElements / kRowTile;
  const std::size_t first = stretch * kEach;
  const std::size_t end = first + kEach < tiles ? first + kEach : tiles;
  unsigned r = 0;
  for (unsigned held = pair; held > r; held -= r) ++r;
  const unsigned s = pair - pairs_of(r);
  double sum = 0;
  std::uint64_t found = 0;
  for (std::size_t tile = first; tile < end; ++tile) {
    sum += room.products[tile * pairs + pair];
    if (r == s) found += room.nonzero[tile * rows + r];
  }
  double* const matrix = gram + stretch * rows * rows;
  matrix[r * rows + s] = sum;
  matrix[s * rows + r] = sum;
  if (r == s) nonzero[stretch * rows + r] = found;
}

template <Dtype D>
void launch_few(const MeasureSlice& slice, const RowRoom& room, cudaStream_t stream) {
  FewRows rows{card_terms<kFew>(slice.terms, slice.term_count),
               {},
               static_cast<unsigned>(slice.row_count),
               slice.count};
  for (std::size_t r = 0; r < slice.row_count; ++r) {
    for (std::size_t k = 0; k < slice.term_count; ++k)
      rows.coefficients[r][k] = slice.rows[r * slice.term_count + k];
  }
  TVMERGE_LAUNCH((multiply_few<D>),
                 blocks_for(parts_of(slice.count, kRowTile) * kSumLanes), kThreads,
                 stream, rows, room);
}

void launch_rows(const MeasureSlice& slice, const RowRoom& room, cudaStream_t stream) {
  const bool few = slice.term_count <= kFew && slice.row_count <= kFew;
  bool alone = true;
  for (std::size_t k = 0; k < slice.term_count; ++k)
    alone = alone && slice.terms[k].dtype == slice.terms[0].dtype;
  if (few && alone && slice.terms[0].dtype == Dtype::bf16)
    return launch_few<Dtype::bf16>(slice, room, stream);
  if (few && alone && slice.terms[0].dtype == Dtype::f16)
    return launch_few<Dtype::f16>(slice, room, stream);
  if (few && alone && slice.terms[0].dtype == Dtype::f32)
    return launch_few<Dtype::f32>(slice, room, stream);
  Rows rows{card_terms<kMostTerms>(slice.terms, slice.term_count),
            {},
            static_cast<unsigned>(slice.row_count),
            slice.count};
  for (std::size_t c = 0; c < slice.row_count * slice.term_count; ++c)
    rows.coefficients[c] = slice.rows[c];
  const std::size_t units =
      parts_of(slice.count, kRowTile) * slice.row_count * (slice.row_count + 1) / 2;
  TVMERGE_LAUNCH(multiply_rows, blocks_for(units * kSumLanes), kThreads, stream, rows,
                 room);
}

}  // namespace

void measure(const MeasureSlice& slice, void* room, cudaStream_t stream) {
  const std::size_t pairs = slice.row_count * (slice.row_count + 1) / 2;
  const std::size_t tiles = parts_of(slice.count, kRowTile);
  auto* const products = static_cast<double*>(room);
  const RowRoom held{products,
                     reinterpret_cast<std::uint64_t*>(products + tiles * pairs)};
  launch_rows(slice, held, stream);
  const std::size_t sums = parts_of(slice.count, kSumElements) * pairs;
  TVMERGE_LAUNCH(add_tiles, blocks_for(sums), kThreads, stream, held,
                 static_cast<unsigned>(slice.row_count), slice.count, slice.gram,
                 slice.nonzero);
}

}  // namespace tvmerge::cuda

namespace tvmerge {

std::uint64_t measure_room(std::uint64_t rows, std::uint64_t count) {
  const std::uint64_t tiles = cuda::parts_of(count, cuda::kRowTile);
  return tiles * (rows * (rows + 1) / 2 * sizeof(double) + rows * sizeof(std::uint64_t));
}

}  // namespace tvmerge
