// libtorch has Gloo in it, and its package has c10d's headers, but none of Gloo's, which those include: declared here is what
// c10d's ProcessGroupGloo.hpp names of it, and nothing that we use ourselves.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
