// The one exception that native code throws; bindings.cpp maps each kind to a class of
// tvmerge.errors.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace tvmerge {

enum class ErrorKind : std::uint8_t { config, storage, memory, card };

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message)
      : std::runtime_error(message), kind_(kind) {}
  [[nodiscard]] ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace tvmerge
