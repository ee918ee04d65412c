"""What the programs leave of a trainer, written as core.train does."""

from pathlib import Path
from typing import Any

from duosora.core.io.weights import STEMS, Shard, index_shards, save_shard
from duosora.core.seam.ranks import Ranks


def save(trainer: Any, ranks: Ranks, folder: Path, states: tuple[str, ...] = ("optimizer",)) -> None:
    """Each rank writes its part of the models and of the states that the trainer saves."""
    shard = Shard(ranks.rank, ranks.world.size)
    saved = trainer.saved()
    saved.save(folder)
    models = {"model": False, "average": True}
    for name, use_ema in models.items():
        save_shard(folder / name, saved.weights(use_ema), shard)
    ranks.world.barrier()
    if ranks.is_first and shard.count > 1:
        for place, stem in (*((folder, state) for state in states), *((folder / name, STEMS[0]) for name in models)):
            index_shards(place, shard.count, stem)
    ranks.world.barrier()
