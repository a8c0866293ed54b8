"""A matrix of videos that differ in container, codec, coding and damage, for tests of their times.

Frame n has the grey level ``level_of(n)``, so that it can be told from the frames near it. ffmpeg writes most
of the videos. ``numbered_greys`` muxes what ffmpeg does not write: fields, and packets that share a stamp or
have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from field_coding import fields_from_levels
from numbered_greys import (
    FRAMES,
    RATE,
    TICKS_PER_S,
    Unit,
    copy,
    encode,
    even,
    level_of,
    mux,
    places_shown,
    program_stream,
    raw_suffix,
    units_of,
)
from odd_clips import TS_PACKET_BYTES, mkv_with_times, ts_with_times

FRAME_TICKS = TICKS_PER_S // RATE
WRAP_S = 2**33 / TICKS_PER_S

Writer = Callable[[Path], None]


def x264(*parameters: str, bframes: int = 3) -> tuple[str, ...]:
    return (
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-x264-params",
        ":".join((f"keyint=24:min-keyint=24:scenecut=0:bframes={bframes}:b-adapt=0", *parameters)),
    )


def x265(*parameters: str) -> tuple[str, ...]:
    return (
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-x265-params",
        ":".join(("log-level=none:keyint=24:min-keyint=24:scenecut=0:bframes=3:b-adapt=0", *parameters)),
    )


MPEG2 = ("-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-b:v", "2M", "-sc_threshold", "1000000000")
MPEG1 = ("-c:v", "mpeg1video", *MPEG2[2:])
MPEG4 = ("-c:v", "mpeg4", "-g", "24", "-bf", "2", "-q:v", "2", "-sc_threshold", "1000000000")
VPX = (
    "-g",
    "24",
    "-deadline",
    "realtime",
    "-cpu-used",
    "8",
    "-auto-alt-ref",
    "1",
    "-lag-in-frames",
    "12",
    "-b:v",
    "1M",
)
SVT = ("-c:v", "libsvtav1", "-preset", "10", "-g", "24")
INTERLACED = ("-flags", "+ildct+ilme")
UNEVEN = ("-fps_mode", "passthrough", "-enc_time_base", "1:1000")
# 60 frames in about 3.4 s, no step like the one before it
UNEVEN_FILTER = "settb=1/1000,setpts=40*N+60*floor(N/4)+17*mod(N\\,2)"
SLOWER_FILTER = "settb=1/1000,setpts=40*N+10*(N-30)*gte(N\\,30)"
PAUSE_FILTER = "settb=1/1000,setpts=40*N+60000*gte(N\\,30)"


def written(*options: str, filters: str = "null") -> Writer:
    return lambda path: encode(path, *options, filters=filters)


def copied(*encoding: str, by: Sequence[str] = (), before: Sequence[str] = (), suffix: str = ".mp4") -> Writer:
    """Return a writer that encodes to one container and copies with options into another."""

    def write(path: Path) -> None:
        source = path.with_name(f"{path.stem}-source{suffix}")
        encode(source, *encoding)
        copy(source, path, *by, before=before)
        source.unlink()

    return write


def changed(write: Writer, change: Callable[[bytes], bytes]) -> Writer:
    """Return a writer that writes a file and changes its bytes."""

    def write_changed(path: Path) -> None:
        write(path)
        path.write_bytes(change(path.read_bytes()))

    return write_changed


def fields(rate_step: int, *, pairs_in_packet: bool, pairs_in_unit: bool = False) -> Writer:
    """Return a writer of field-coded H.264.

    With ``pairs_in_packet``, both fields of a frame are in one PES or sample; in a program stream, the second
    field has no stamp. Otherwise each field has a packet and a time of its own.
    """

    def write(path: Path) -> None:
        units: list[Unit] = list(fields_from_levels([level_of(number) for number in range(FRAMES)]))
        if path.suffix in (".mpg", ".vob"):
            stamps: list[tuple[int, int] | None] = list(even(len(units), rate_step // 2))
            if pairs_in_packet:
                stamps[1::2] = [None] * FRAMES
            path.write_bytes(program_stream([unit for unit, _ in units], stamps))
            return
        base = (
            Fraction(1, TICKS_PER_S) if path.suffix in (".ts", ".mts", ".m2ts", ".mp4", ".mov") else Fraction(1, 1000)
        )
        step = rate_step if base.denominator == TICKS_PER_S else rate_step * 1000 // TICKS_PER_S
        mux(path, units, even(len(units), step // 2), base, together=[2] * FRAMES if pairs_in_packet else [])

    return write


def bursts(size: int) -> Writer:
    """Return a writer of frames that come in groups of one stamp."""

    def write(path: Path) -> None:
        mux(
            path,
            units_of(path, *x264(bframes=0)),
            [(size * 40 * (n // size),) * 2 for n in range(FRAMES)],
            Fraction(1, 1000),
        )

    return write


def one_shared(path: Path) -> None:
    mux(path, units_of(path, *x264(bframes=0)), [(40 * (n - (n == 30)),) * 2 for n in range(FRAMES)], Fraction(1, 1000))


def grouped(together: Sequence[int], *options: str, step: int = FRAME_TICKS, pause: int = 0) -> Writer:
    """Return a writer of a transport stream whose PES hold several frames, so that only the first has a stamp."""

    def write(path: Path) -> None:
        units = units_of(path, *options)
        order = places_shown(path, options)
        stamps = [
            (step * (shown + 2) + pause * (shown >= 30), step * stored + pause * (stored >= 30))
            for stored, shown in enumerate(order)
        ]
        mux(path, units, stamps, Fraction(1, TICKS_PER_S), raw_suffix(options), together)

    return write


def program(step: int, *, pause: int = 0, every: int = 1, bframes: int = 0, rate: str = "") -> Writer:
    """Return a writer of H.264 in a program stream, as network recorders write it.

    Every frame has a PES, and every ``every``-th frame has a stamp.
    """

    def write(path: Path) -> None:
        options = x264(bframes=bframes)
        units = units_of(path, *options, *(("-bsf:v", f"h264_metadata=tick_rate={rate}") if rate else ()))
        stamps = [
            (
                TICKS_PER_S + step * (shown + 2) + pause * (shown >= 30),
                TICKS_PER_S + step * stored + pause * (stored >= 30),
            )
            if stored % every == 0
            else None
            for stored, shown in enumerate(places_shown(path, options))
        ]
        path.write_bytes(program_stream([unit for unit, _ in units], stamps))

    return write


def without_last_durations(content: bytes) -> bytes:
    """Return the MP4 with a duration of zero for its second run of frames (8.6.1.2 of ISO/IEC 14496-12)."""
    place = content.index(b"stts") + 4 + 8 + 8 + 4
    return content[:place] + bytes(4) + content[place + 4 :]


def once(number: int, off: int) -> Callable[[bytes], bytes]:
    """Return a function that shifts one stamp of a Matroska file by ``off`` ms."""
    return lambda content: mkv_with_times(content, lambda n, time_ms: time_ms + off * (n == number))


def part(first: float, last: float, unit: int = 1) -> Callable[[bytes], bytes]:
    """Return a function that cuts a piece out of a file, in whole units."""
    return lambda content: content[int(len(content) * first) // unit * unit : int(len(content) * last) // unit * unit]


def _wrong_rate(tick_rate: int) -> tuple[str, ...]:
    return "-bsf:v", f"h264_metadata=tick_rate={tick_rate}"


def _one_time_off(ticks: int, before: float) -> int:
    return ticks - 9000 * (0.5 < before < 0.52)


# Files of RATE whose stamps FFmpeg's parser gives to the wrong pictures, where a start code lies across two packets:
# ffprobe's own times go back, and those that were written count.
MISREAD = ("mpeg1.mpg", "mpeg2-interlaced-vob.mpg")
FILES: dict[str, Writer] = {
    # codec and coding
    "x264.mp4": written(*x264()),
    "x264-no-b.mp4": written(*x264(bframes=0)),
    "x264-open.mp4": written(*x264("open-gop=1")),
    "x264-pyramid.mkv": written(*x264("b-pyramid=normal:ref=4")),
    "x264-fragmented.mp4": written(*x264(), "-movflags", "frag_keyframe+empty_moov"),
    "x264-no-edits.mp4": written(*x264(), "-use_editlist", "0"),
    "x264.mov": written(*x264()),
    "x264.mkv": written(*x264()),
    "x264.ts": written(*x264()),
    "x264-open.ts": written(*x264("open-gop=1")),
    "x264-m2ts.mts": written(*x264(), "-mpegts_m2ts_mode", "1"),
    "x264.avi": written(*x264()),
    "x264-no-b.avi": written(*x264(bframes=0)),
    "x264.flv": written(*x264()),
    "x264.3gp": written(*x264("ref=1", bframes=0)),
    "x264-intra.mp4": written(*x264("keyint=1", bframes=0)),
    "x264-refresh.mp4": written(*x264("intra-refresh=1", bframes=0)),
    "x265.mp4": written(*x265(), "-tag:v", "hvc1"),
    "x265-open.mp4": written(*x265("open-gop=1")),
    "x265-closed.mkv": written(*x265("open-gop=0")),
    "x265.ts": written(*x265()),
    "x265.mkv": written(*x265()),
    "x265-fields.mp4": written(*x265("interlace=tff")),
    "x265-fields.ts": written(*x265("interlace=tff")),
    "mpeg1.mpg": written(*MPEG1),
    "mpeg2.mpg": written(*MPEG2),
    "mpeg2-vob.mpg": written(*MPEG2, "-f", "vob"),
    "mpeg2.ts": written(*MPEG2),
    "mpeg2.mkv": written(*MPEG2),
    "mpeg2-interlaced.ts": written(*MPEG2, *INTERLACED),
    "mpeg2-interlaced-vob.mpg": written(*MPEG2, *INTERLACED, "-f", "vob"),
    "mpeg4.mp4": written(*MPEG4),
    "mpeg4.avi": written(*MPEG4),
    "mpeg4.mkv": written(*MPEG4),
    "mpeg4-no-b.3gp": written(*MPEG4, "-bf", "0"),
    "vp8.webm": written("-c:v", "libvpx", *VPX),
    "vp9.webm": written("-c:v", "libvpx-vp9", *VPX),
    "vp9.mp4": written("-c:v", "libvpx-vp9", *VPX),
    "av1-aom.mp4": written("-c:v", "libaom-av1", "-cpu-used", "8", "-g", "24", "-b:v", "500k"),
    "av1-svt.mp4": written(*SVT, filters="scale=64:64"),
    "av1-svt.webm": written(*SVT, filters="scale=64:64"),
    "mjpeg.avi": written("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"),
    "mjpeg.mov": written("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"),
    "mjpeg.mkv": written("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"),
    "dv.avi": written("-c:v", "dvvideo", filters="scale=720:576"),
    "prores.mov": written("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"),
    "prores.mkv": written("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"),
    "wmv2.wmv": written("-c:v", "wmv2", "-q:v", "2"),
    "wmv1.wmv": written("-c:v", "wmv1", "-q:v", "2"),
    "flv1.flv": written("-c:v", "flv", "-q:v", "2"),
    # fields
    "mixed-fields.mp4": written(*x264("tff=1"), *INTERLACED),
    "mixed-fields.ts": written(*x264("tff=1"), *INTERLACED),
    "mixed-fields.mkv": written(*x264("bff=1"), *INTERLACED),
    "fields-pair-in-pes.ts": fields(FRAME_TICKS, pairs_in_packet=True),
    "fields-pair-in-pes.mts": fields(FRAME_TICKS, pairs_in_packet=True),
    "fields-each-in-pes.ts": fields(FRAME_TICKS, pairs_in_packet=False),
    "fields-pair-in-sample.mp4": fields(FRAME_TICKS, pairs_in_packet=True),
    "fields-each-in-sample.mp4": fields(FRAME_TICKS, pairs_in_packet=False),
    "fields-pair-in-block.mkv": fields(FRAME_TICKS, pairs_in_packet=True),
    "fields-each-in-block.mkv": fields(FRAME_TICKS, pairs_in_packet=False),
    "fields-pair-in-pes.mpg": fields(FRAME_TICKS, pairs_in_packet=True),
    "fields-each-in-pes.mpg": fields(FRAME_TICKS, pairs_in_packet=False),
    # times
    "uneven.mp4": written(*x264(), *UNEVEN, filters=UNEVEN_FILTER),
    "uneven.mkv": written(*x264(), *UNEVEN, filters=UNEVEN_FILTER),
    "uneven.ts": written(*x264(), *UNEVEN, filters=UNEVEN_FILTER),
    "uneven.flv": written(*x264(), *UNEVEN, filters=UNEVEN_FILTER),
    "uneven.webm": written("-c:v", "libvpx-vp9", *VPX, *UNEVEN, filters=UNEVEN_FILTER),
    "pause.mp4": written(*x264(), *UNEVEN, filters=PAUSE_FILTER),
    "pause.mkv": written(*x264(), *UNEVEN, filters=PAUSE_FILTER),
    "pause.ts": written(*x264(), *UNEVEN, filters=PAUSE_FILTER),
    "pause.flv": written(*x264(), *UNEVEN, filters=PAUSE_FILTER),
    "pause.mpg": program(FRAME_TICKS, pause=60 * TICKS_PER_S),
    "from-5-s.mp4": copied(*x264(), by=("-output_ts_offset", "5")),
    "from-5-s.mkv": copied(*x264(), by=("-output_ts_offset", "5")),
    "second-half.mp4": copied(*x264(), before=("-ss", "1.3")),
    "second-half.mov": copied(*MPEG4, before=("-ss", "1.3")),
    "wraps.ts": copied(*x264(), by=("-output_ts_offset", str(WRAP_S - 1)), suffix=".mkv"),
    "wraps-mpeg2.ts": copied(*MPEG2, by=("-output_ts_offset", str(WRAP_S - 1)), suffix=".mkv"),
    "from-26-h.ts": copied(*x264(), by=("-output_ts_offset", "93600"), suffix=".mkv"),
    # damage of times
    "pairs.mkv": bursts(2),
    "pairs.flv": bursts(2),
    "triples.mkv": bursts(3),
    "one-shared.mkv": one_shared,
    "one-shared.flv": one_shared,
    "no-durations.mp4": changed(written(*x264(bframes=0), *UNEVEN, filters=SLOWER_FILTER), without_last_durations),
    "one-shared-b.mkv": changed(written(*x264()), once(30, -40)),
    "back-once.mkv": changed(written(*x264(bframes=0)), once(30, -150)),
    "ahead-once.mkv": changed(written(*x264(bframes=0)), once(30, 3000)),
    "back-once.ts": changed(written(*x264(bframes=0)), lambda content: ts_with_times(content, _one_time_off)),
    "back-once-b.ts": changed(written(*x264()), lambda content: ts_with_times(content, _one_time_off)),
    "two-in-pes.ts": grouped([2] * 30, *x264(bframes=0)),
    "five-in-pes.ts": grouped([5] * 12, *x264(bframes=0), step=15_000),
    "five-in-pes-pause.ts": grouped([5] * 12, *x264(bframes=0), pause=60 * TICKS_PER_S),
    "three-in-pes-b.ts": grouped([3] * 20, *x264(bframes=2)),
    "one-missing.ts": grouped([1] * 20 + [2], *x264(bframes=0)),
    "one-missing-b.ts": grouped([1] * 20 + [2], *x264(bframes=2)),
    "four-in-pes-mpeg2.ts": grouped([4] * 15, *MPEG2),
    "few-stamps-b.mpg": written(*x264()),
    "recorder.mpg": program(15_000),
    "recorder-b.mpg": program(FRAME_TICKS, bframes=2),
    "every-third.mpg": program(FRAME_TICKS, every=3),
    "every-third-b.mpg": program(FRAME_TICKS, every=3, bframes=2),
    # rates that are wrong
    "rate-6.mp4": copied(*x264(), by=_wrong_rate(12)),
    "rate-6.mkv": copied(*x264(), by=_wrong_rate(12)),
    "rate-6.ts": copied(*x264(), by=_wrong_rate(12)),
    "rate-100.ts": copied(*x264(bframes=0), by=_wrong_rate(200)),
    "rate-100.mpg": program(15_000, rate="200"),
    "rate-6-two-in-pes.ts": grouped([2] * 30, *x264(bframes=0), *_wrong_rate(12)),
    # damage of content
    "cut-start.ts": changed(written(*x264(bframes=0)), part(0.2, 1, TS_PACKET_BYTES)),
    "cut-start-b.ts": changed(written(*x264()), part(0.2, 1, TS_PACKET_BYTES)),
    "cut-start-mpeg2.ts": changed(written(*MPEG2), part(0.2, 1, TS_PACKET_BYTES)),
    "cut-start.mpg": changed(written(*MPEG2), part(0.2, 1)),
    "cut-end.ts": changed(written(*x264()), part(0, 0.7, TS_PACKET_BYTES)),
    "cut-end.mkv": changed(written(*x264()), part(0, 0.7)),
    "cut-end.mp4": changed(written(*x264(), "-movflags", "faststart"), part(0, 0.7)),
    "cut-end.avi": changed(written(*MPEG4, "-bf", "0"), part(0, 0.7)),
    "cut-end.flv": changed(written(*x264()), part(0, 0.7)),
    "cut-end.mpg": changed(written(*MPEG2), part(0, 0.7)),
}
