"""Frames into mp4 files and out of them. The one file that imports av."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trcl_policy.files import explained

Frame = NDArray[np.uint8]  # (H, W, 3)
KEYFRAME_EVERY = 2  # LeRobot's: any frame is decoded from at most two
MAX_PIXELS = 2**26  # of a frame: a file that claims more is damaged, or meant to fill memory


class Mp4Writer:
    """An H.264 file that grows frame by frame; a context manager.

    Args:
        path: the file.
        fps: frames per second.
        quality: x264's rate factor, 1 to 51; 0 keeps every value bit for bit (RGB instead of YUV).
        seekable: a keyframe every two frames and no frame that needs later ones, for reading at random.
    """

    def __init__(self, path: Path, fps: float, quality: int = 23, seekable: bool = False) -> None:
        import av

        self._file: Any = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        rate = Fraction(fps).limit_denominator(1000)
        self._stream: Any = self._file.add_stream("libx264" if quality else "libx264rgb", rate=rate)
        self._options = {"preset": "veryfast", **({"crf": str(quality)} if quality else {"qp": "0"})}
        if seekable:
            self._options |= {"g": str(KEYFRAME_EVERY), "bf": "0"}
        self._quality, self._started = quality, False

    def write(self, frame: Frame) -> None:
        """Encode the next frame, as large as the first; sizes must be even where pictures lose by compression."""
        import av

        if not self._started:
            self._start(*frame.shape[:2])
        self._file.mux(self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))

    def _start(self, height: int, width: int) -> None:
        even = height % 2 == 0 and width % 2 == 0
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = ("yuv420p" if even else "yuv444p") if self._quality else "rgb24"
        self._stream.options = self._options
        self._stream.codec_context.thread_count = 1  # threads would spin beside other processes, and change the bytes
        self._started = True

    def close(self) -> None:
        """Write what the encoder still holds, and the index."""
        if self._file is not None:
            if self._started:
                self._file.mux(self._stream.encode())
            self._file.close()
            self._file = None

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def read_frames(path: Path, start_s: float, count: int, fps: float) -> Iterator[Frame]:
    """Yield ``count`` frames of a video from the one at ``start_s`` [s] on.

    Raises:
        ValueError: the file is damaged, or has no frame at one of these times; one line.
        FileError: it can't be read.
    """
    import av

    number = 0
    with explained("read", path):
        path.open("rb").close()
    try:
        with av.open(str(path)) as file:
            stream: Any = file.streams.video[0]
            stream.codec_context.thread_count = 1
            if stream.width * stream.height > MAX_PIXELS:
                raise ValueError(f"{path} must have frames of at most {MAX_PIXELS} pixels, got more")
            file.seek(max(0, int(start_s / stream.time_base)), stream=stream)
            for frame in _at_times(file.decode(stream), start_s, fps):
                yield frame.to_ndarray(format="rgb24")
                number += 1
                if number == count:
                    return
    except (av.FFmpegError, IndexError, OSError) as error:
        raise ValueError(f"{path} must be a whole video, got {str(error).splitlines()[0]}") from None
    raise ValueError(f"{path} must have {count} frames from {start_s:.3f} s on, got {number}")


def _at_times(frames: Iterable[Any], start_s: float, fps: float) -> Iterator[Any]:
    """Yield the frames at ``start_s``, ``start_s + 1 / fps``, ..., within half a frame; stop where one is missing."""
    number = 0
    for frame in frames:
        place = (float(frame.pts * frame.time_base) - start_s) * fps
        if place < number - 0.5:
            continue
        if place > number + 0.5:
            return
        yield frame
        number += 1
