"""Reads when a video was recorded, from the metadata of its file."""

import contextlib
import os
from collections.abc import Mapping
from datetime import datetime

# With the time zone of the place, unlike `creation_time`: written by Apple's cameras.
_QUICKTIME = "com.apple.quicktime.creationdate"
_FIRST = 1990  # no video file is older: a clock that was never set counts from 1904 or 1970


def read_recorded(path: str | os.PathLike) -> datetime | None:
    """Returns when a video begins by its camera, None if the file does not say or PyAV is missing.

    MP4, QuickTime and Matroska files may have this time. It is that of the place if the file has a time zone;
    else it is in UTC, and is converted to the time zone of this machine. The result has no time zone, as the
    times of photos have none.
    """
    try:
        import av
    except ImportError:
        return None
    av.logging.set_level(None)
    with contextlib.suppress(av.FFmpegError, OSError, ValueError), av.open(os.fspath(path)) as container:
        return parse_metadata(container.metadata)
    return None


def parse_metadata(metadata: Mapping[str, str]) -> datetime | None:
    """Returns the time that the metadata of a file give, as `read_recorded` does."""
    if text := metadata.get(_QUICKTIME):
        found = datetime.fromisoformat(text).replace(tzinfo=None)
    elif text := metadata.get("creation_time"):
        found = datetime.fromisoformat(text)
        found = found.astimezone().replace(tzinfo=None) if found.tzinfo else found
    else:
        return None
    return found if found.year >= _FIRST else None
