// The grid's barrier of the emulated GPU (cuda_runtime.h).
#pragma once

#include "cuda_runtime.h"

namespace cooperative_groups {

struct Grid {
  void sync() const { emulated::block->wait(emulated::State::at_grid); }
};

inline Grid this_grid() { return {}; }

}  // namespace cooperative_groups
