"""What data ranks have found for their micro-batches, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..seam.ranks import Ranks


def joined(ranks: Ranks, own: np.ndarray) -> np.ndarray:
    """The rows of all micro-batches of a step, in the order in which one process would have come to them.

    own: a row for each micro-batch of this rank, (n, ...); as many on every rank. Micro-batch m of the step is the
    m // d-th of data rank m % d, of d. Of a team, whose ranks work on the same ones, the leader's rows count. All ranks
    call together, and get the same.
    """
    shares = ranks.world.share(own.tobytes())
    of_data = [np.frombuffer(shares[team[0]], own.dtype).reshape(own.shape) for team in ranks.plan.teams()]
    return np.stack(of_data, 1).reshape(len(of_data) * len(own), *own.shape[1:])


def joined_there(ranks: Ranks, own: Any) -> Any:
    """As `joined`, of a tensor (n, ...) that stays on the device, so that nobody waits for it."""
    if ranks.world.size == 1:
        return own
    of_data = ranks.world.gather(own[None], 0)[:: ranks.team.size]
    return of_data.swapaxes(0, 1).reshape(-1, *own.shape[1:])


def weights(ranks: Ranks, sizes: Sequence[float]) -> np.ndarray:
    """What each of this rank's micro-batches weighs in the mean over a whole step, (n,).

    sizes: how much each of them holds of what is averaged. With these weights the mean over micro-batches is the one
    over all that they hold, however the step is split. They are exactly 1 where all hold the same. All ranks call
    together.
    """
    own = np.array(sizes, np.float64)
    return own / joined(ranks, own).mean()
