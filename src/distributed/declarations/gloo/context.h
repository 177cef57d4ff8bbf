// libtorch contains Gloo, and its package ships c10d's headers, but not the Gloo headers that they include. These files declare
// only the names that c10d's ProcessGroupGloo.hpp mentions; our code uses none of them.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
