#include "core/lines.hpp"

#include <cmath>
#include <limits>
#include <utility>

#include "core/error.hpp"

namespace tvmerge {

LineCoefficients::LineCoefficients(Lines lines, std::vector<std::uint32_t> sources,
                                   std::vector<double> values)
    : lines(lines), sources(std::move(sources)), values(std::move(values)) {
  if (this->values.size() != this->sources.size() * lines.count)
    throw Error(ErrorKind::config, "lines need one coefficient for each source and line");
  for (std::size_t k = 0; k < this->sources.size(); ++k) {
    double least = 0, most = 0;
    for (std::uint64_t line = 0; line < lines.count; ++line) {
      const double size = std::abs(this->values[k * lines.count + line]);
      most = std::max(most, size);
      if (size > 0 && (least == 0 || size < least)) least = size;
    }
    hardest.push_back(most > std::numeric_limits<float>::max() ? most : least);
  }
}

}  // namespace tvmerge
