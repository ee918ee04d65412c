"""What a plan says of where values came from."""

from duosora.core.config.filling import origins
from duosora.core.config.training import TrainConfig


def test_a_group_is_told_by_its_settings() -> None:
    given = TrainConfig.model_validate({"validation": {"every": 2, "data": {"kind": "moving_shapes"}}})
    told = origins(given, given, {}, {"validation.every"})
    assert told == ["file       validation.data kind moving_shapes", "--set      validation every 2"]
