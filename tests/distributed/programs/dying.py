"""Adds over the ranks; then rank 1 is killed while the others wait in the next sum."""

import os
import signal
import sys

import numpy as np

from duosora.core.parallel.launched import launched
from duosora.core.seam import backend as backends
from duosora.core.seam.ranks import ParallelPlan

here = launched()
backend = backends.get(sys.argv[1], "cpu")
world = backend.connect(ParallelPlan(data=here.world)).world
ones = backend.asarray(np.ones(3, np.float32))
print("sum", backend.to_numpy(world.reduce(ones))[0], flush=True)
if here.rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
print("sum", backend.to_numpy(world.reduce(ones))[0], flush=True)
