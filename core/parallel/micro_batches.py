"""What data ranks have found for their micro-batches, put together."""

from __future__ import annotations

import numpy as np

from .group import Ranks


def joined(ranks: Ranks, own: np.ndarray) -> np.ndarray:
    """The rows of all micro-batches of a step, in the order in which one process would have come to them.

    own: a row for each micro-batch of this rank, (n, ...); as many on every rank. Micro-batch m of the step is the
    m // d-th of data rank m % d, of d. Of a team, whose ranks work on the same ones, the leader's rows count. All ranks
    call together, and get the same.
    """
    shares = ranks.world.share(own.tobytes())
    of_data = [np.frombuffer(shares[team[0]], own.dtype).reshape(own.shape) for team in ranks.plan.teams()]
    return np.stack(of_data, 1).reshape(-1, *own.shape[1:])
