// Sums over elements that say how much of an intended edit rounding left (edit.hpp).
#pragma once

#include "kernels/kernels_codes.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

// Changes below this share of the weight are the sum's own rounding noise, not intended.
template <typename Sum>
constexpr Sum kNoise = sizeof(Sum) == 4 ? Sum{0x1p-21f} : Sum(0x1p-48);

// sum + a * b. In float64 the products of narrower floats are exact anyway, and not every
// processor has an fma.
inline Vectors<float>::Vector add_product(Vectors<float>::Vector a,
                                          Vectors<float>::Vector b,
                                          Vectors<float>::Vector sum) {
  return fused_lanes(a, b, sum);
}
inline Vectors<double>::Vector add_product(Vectors<double>::Vector a,
                                           Vectors<double>::Vector b,
                                           Vectors<double>::Vector sum) {
  return sum + a * b;
}

template <typename Sum>
class Comparison {
  using V = Vectors<Sum>;
  using Vector = typename V::Vector;

 public:
  // One register of weights x, sums y and outputs z; `part` is its place in the lanes.
  inline void add(std::size_t part, Vector x, Vector y, Vector z) {
    const Vector d = y - x;
    const Vector r = z - x;
    const Vector noise = x * kNoise<Sum>;
    intended_sq_[part] = add_product(d, d, intended_sq_[part]);
    realised_sq_[part] = add_product(r, r, realised_sq_[part]);
    dot_[part] = add_product(d, r, dot_[part]);
    const auto meant = greater_lanes(d * d, noise * noise);
    const auto moved = unequal_lanes(r, Vector{});
    intended_.add(meant);
    changed_.add(moved);
    both_.add(meant & moved);
  }

  [[nodiscard]] Edit total() const {
    Edit edit;
    edit.changed = changed_.total();
    edit.intended = intended_.total();
    edit.lost = edit.intended - both_.total();
    edit.intended_sq = V::total(intended_sq_);
    edit.realised_sq = V::total(realised_sq_);
    edit.dot = V::total(dot_);
    return edit;
  }

 private:
  Vector intended_sq_[kRegisters]{}, realised_sq_[kRegisters]{}, dot_[kRegisters]{};
  LaneCount<Lanes<Vector>> changed_, intended_, both_;
};

// Infinity - infinity is no change, and NaN that stays is none either: where sums are not
// finite, elements are looked at one by one.
template <typename Sum>
std::uint64_t count_changed(const Sum* x, const Sum* z, std::size_t count) {
  std::uint64_t changed = 0;
  for (std::size_t i = 0; i < count; ++i)
    changed += x[i] != z[i] && (x[i] == x[i] || z[i] == z[i]) ? 1 : 0;
  return changed;
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
