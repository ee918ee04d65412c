"""The sizes and lengths of Open-Sora 1.1 and 1.2.

Resolutions that are called after a number of lines share 17 proportions, those called after the side of a square the
40 of PixArt. Several sizes are no multiples of 8; the last pixels of such a side have no latent.
Source: opensora/datasets/aspect.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from ..bucketing.size_table import Resolution, SizeTable

RATIOS = {
    "3:8": "0.38",
    "9:21": "0.43",
    "12:25": "0.48",
    "1:2": "0.50",
    "9:17": "0.53",
    "27:50": "0.54",
    "9:16": "0.56",
    "5:8": "0.62",
    "2:3": "0.67",
    "3:4": "0.75",
    "1:1": "1.00",
    "4:3": "1.33",
    "3:2": "1.50",
    "16:9": "1.78",
    "17:9": "1.89",
    "2:1": "2.00",
    "50:27": "2.08",
}
"""Height : width, and the decimal under which the tables have it; for 50:27 it is that of 25:12."""
LENGTHS = {
    "1x": 51,
    "2x": 102,
    "4x": 204,
    "8x": 408,
    "16x": 816,
    "2s": 51,
    "4s": 102,
    "8s": 204,
    "16s": 408,
    "32s": 816,
}
"""Whole groups of 17 frames: "2s" is a little more than two seconds at 24 frames a second."""

_OF_LINES = "0.38 0.43 0.48 0.50 0.53 0.54 0.56 0.62 0.67 0.75 1.00 1.33 1.50 1.78 1.89 2.00 2.08"
_OF_SQUARES = (
    "0.25 0.26 0.27 0.28 0.32 0.33 0.35 0.4 0.42 0.48 0.5 0.52 0.57 0.6 0.68 0.72 0.78 0.82 0.88 0.94 1.0 "
    "1.07 1.13 1.21 1.29 1.38 1.46 1.67 1.75 2.0 2.09 2.4 2.5 2.89 3.0 3.11 3.62 3.75 3.88 4.0"
)


def _resolution(pixels: int, ratios: str, sizes: str, scale: float = 1) -> Resolution:
    pairs = ([round(scale * int(side)) for side in size.split("x")] for size in sizes.split())
    return Resolution(
        pixels, {ratio: (height, width) for ratio, (height, width) in zip(ratios.split(), pairs, strict=True)}
    )


_SIZES_512 = """
256x1024 256x992 256x960 256x928 288x896 288x864 288x832 320x800 320x768 352x736 352x704 352x672 384x672 384x640
416x608 416x576 448x576 448x544 480x544 480x512 512x512 512x480 544x480 544x448 576x448 576x416 608x416 640x384
672x384 704x352 736x352 768x320 800x320 832x288 864x288 896x288 928x256 960x256 992x256 1024x256
"""
_RESOLUTIONS = {
    "144p": _resolution(
        36864,
        _OF_LINES,
        """
        117x312 125x291 133x277 135x270 139x262 141x260 144x256 151x241 156x234 166x221 192x192 221x165 235x156
        256x144 263x139 271x135 277x132
        """,
    ),
    "256": _resolution(65536, _OF_SQUARES, _SIZES_512, scale=0.5),
    "240p": _resolution(
        102240,
        _OF_LINES,
        """
        196x522 210x490 222x462 226x452 232x438 236x436 240x426 252x404 262x393 276x368 320x320 370x278 392x262
        426x240 440x232 452x226 462x222
        """,
    ),
    "360p": _resolution(
        230400,
        _OF_LINES,
        """
        294x784 314x732 332x692 340x680 350x662 352x652 360x640 380x608 392x588 416x554 480x480 554x416 588x392
        640x360 660x350 678x340 692x332
        """,
    ),
    "512": _resolution(262144, _OF_SQUARES, _SIZES_512, scale=1),
    "480p": _resolution(
        409920,
        _OF_LINES,
        """
        392x1046 420x980 444x925 452x904 466x880 470x870 480x854 506x810 522x784 554x738 640x640 740x555 784x522
        854x480 880x466 906x454 924x444
        """,
    ),
    "720p": _resolution(
        921600,
        _OF_LINES,
        """
        588x1568 628x1466 666x1388 678x1356 698x1318 706x1306 720x1280 758x1212 784x1176 832x1110 960x960
        1108x832 1176x784 1280x720 1320x698 1358x680 1386x666
        """,
    ),
    "1024": _resolution(1048576, _OF_SQUARES, _SIZES_512, scale=2),
    "1080p": _resolution(
        2073600,
        _OF_LINES,
        """
        882x2352 942x2198 998x2080 1018x2036 1048x1980 1058x1958 1080x1920 1138x1820 1176x1764 1248x1664
        1440x1440 1662x1246 1764x1176 1920x1080 1980x1048 2036x1018 2078x998
        """,
    ),
    "2k": _resolution(
        3686400,
        _OF_LINES,
        """
        1176x3136 1256x2930 1330x2770 1358x2716 1398x2640 1412x2612 1440x2560 1518x2428 1568x2352 1662x2216
        1920x1920 2218x1664 2352x1568 2560x1440 2638x1396 2716x1358 2772x1330
        """,
    ),
    "2048": _resolution(4194304, _OF_SQUARES, _SIZES_512, scale=4),
    "2880": _resolution(
        8294400,
        "0.25 0.26 0.27 0.28 0.32 0.33 0.34 0.4 0.42 0.47 0.49 0.51 0.55 0.59 0.68 0.72 0.78 0.83 "
        "0.89 0.93 1.0 1.07 1.12 1.21 1.28 1.39 1.47 1.7 1.82 2.03 2.13 2.39 2.5 2.92 3.0 3.12 3.68 "
        "3.82 3.95 4.0",
        """
        1408x5760 1408x5568 1408x5376 1408x5184 1600x4992 1600x4800 1600x4672 1792x4480 1792x4288 1920x4096
        1920x3904 1920x3776 2112x3840 2112x3584 2304x3392 2304x3200 2496x3200 2496x3008 2688x3008 2688x2880
        2880x2880 2880x2688 3008x2688 3008x2496 3200x2496 3200x2304 3392x2304 3584x2112 3840x2112 3904x1920
        4096x1920 4288x1792 4480x1792 4672x1600 4800x1600 4992x1600 5184x1408 5376x1408 5568x1408 5760x1408
        """,
    ),
    "4k": _resolution(
        8294400,
        _OF_LINES,
        """
        1764x4704 1886x4400 1996x4158 2036x4072 2096x3960 2118x3918 2160x3840 2276x3642 2352x3528 2494x3326
        2880x2880 3326x2494 3528x2352 3840x2160 3958x2096 4072x2036 4156x1994
        """,
    ),
}
SIZES = SizeTable(_RESOLUTIONS, RATIOS, LENGTHS)
