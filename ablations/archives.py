"""A result of anybody's, as a folder or as a zip file."""

import collections
import contextlib
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ablations.record.documents import PLAN
from ablations.record.manifest import MANIFEST
from models.base.typed import ConfigError

MOST_BYTES = 2_000_000_000
"""That an archive of one result may unpack to."""


@contextlib.contextmanager
def opened(place: Path) -> Iterator[Path]:
    """The folder of a result; of a zip file, what it holds. Raises ConfigError where there is no such thing."""
    if place.is_dir():
        yield place
        return
    if not place.is_file() or not zipfile.is_zipfile(place):  # a device or a pipe may never end
        raise ConfigError(f"{place}: neither the folder of a published result nor a zip file of one")
    with tempfile.TemporaryDirectory(prefix="reproduce-") as scratch:
        try:
            with zipfile.ZipFile(place) as archive:
                names = archive.namelist()
                if len(set(names)) < len(names):
                    twice = collections.Counter(names).most_common(1)[0][0]
                    raise ConfigError(f"{place}: holds {twice} twice, of which one would be lost")
                size = sum(entry.file_size for entry in archive.infolist())
                if size > MOST_BYTES:
                    raise ConfigError(f"{place}: unpacks to {size:,} bytes; at most {MOST_BYTES:,}")
                archive.extractall(scratch)  # names that lead out of it are cut by zipfile
        except (zipfile.BadZipFile, RuntimeError, UnicodeError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise ConfigError(f"{place}: cannot be unpacked ({error})") from None
        except OSError as error:  # a name that is too long, or a full disk; its file is one of the copy's
            raise ConfigError(f"{place}: cannot be unpacked ({error.strerror})") from None
        plans = sorted(Path(scratch).rglob(PLAN))
        if len(plans) != 1:
            raise ConfigError(f"{place}: holds {len(plans)} results; name a folder of one")
        if not (plans[0].parent / MANIFEST).is_file():
            raise ConfigError(f"{place}: holds no {MANIFEST} beside its {PLAN}, so it is no published result")
        yield plans[0].parent
