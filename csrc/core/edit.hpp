// What an output's rounding left of the intended change, summed over elements.
#pragma once

#include <cstdint>
#include <vector>

namespace tvmerge {

// With x the reference, y the sum before rounding and z the output: the intended edit is
// d = y - x, the realised one r = z - x.
struct Edit {
  std::uint64_t changed = 0;   // z is not x (by value; NaN is NaN)
  std::uint64_t intended = 0;  // |d| is more than arithmetic noise (kernels_combine.hpp)
  std::uint64_t lost = 0;      // intended, and not changed
  double intended_sq = 0;      // sum of d^2
  double realised_sq = 0;      // sum of r^2
  double dot = 0;              // sum of d * r

  constexpr Edit& operator+=(const Edit& other) {
    changed += other.changed;
    intended += other.intended;
    lost += other.lost;
    intended_sq += other.intended_sq;
    realised_sq += other.realised_sq;
    dot += other.dot;
    return *this;
  }
};

// Adds up parts of equal size, given in their order, as a binary tree; what is left over
// at the end is added from the last part up. Cutting the parts at another power of two
// gives the same bits. (Pairwise summation: Higham, 1993.)
class EditTree {
 public:
  void push(const Edit& part) {
    stack_.push_back(part);
    for (std::uint64_t count = ++pushed_; count % 2 == 0; count /= 2) fold();
  }
  [[nodiscard]] Edit total() {
    while (stack_.size() > 1) fold();
    return stack_.empty() ? Edit{} : stack_.front();
  }

 private:
  void fold() {
    const Edit last = stack_.back();
    stack_.pop_back();
    stack_.back() += last;
  }

  std::vector<Edit> stack_;
  std::uint64_t pushed_ = 0;
};

}  // namespace tvmerge
