"""The command line, run in this process: same code path as the `duosora` script, without importing torch anew."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest

from duosora.core.cli.main import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def duosora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["duosora", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        code = left.value.code
        return Outcome(0 if code is None else int(code), captured.out, captured.err)

    return run


def half_fast() -> list[int]:
    """The times, in milliseconds, of 33 frames: 16 at 60 and 17 at 10.5 a second."""
    return [round(1000 * number / 60) for number in range(16)] + [267 + 95 * number for number in range(17)]


@pytest.fixture(scope="session")
def odd_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 64 x 96 pixels as phones and cameras make them; brightness rises by 5 from frame to frame."""
    folder = tmp_path_factory.mktemp("odd")
    steady = [40 * number for number in range(9)]
    _write(folder / "variable.mp4", half_fast())
    _write(folder / "wide.mp4", steady, pixel_shape=Fraction(4, 3))
    _write(folder / "lying.mov", steady, pixel_shape=Fraction(10, 11), matrix=(0, 1, 1, 0))
    _write(folder / "hdr.mp4", steady, transfer=16)
    return folder


def _write(
    path: Path,
    times: list[int],
    pixel_shape: Fraction | None = None,
    matrix: tuple[int, ...] = (1, 0, 0, 1),
    transfer: int = 1,
) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "5", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p10le" if transfer == 16 else "yuv420p"
        context = stream.codec_context
        context.time_base, context.color_trc = Fraction(1, 1000), transfer
        if pixel_shape:
            context.sample_aspect_ratio = pixel_shape
        a, b, c, d = (entry << 16 for entry in matrix)
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 40 + 5 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
