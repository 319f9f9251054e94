"""Files inside installed packages, found without importing those packages."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from lpir.errors import FileError


def files_of(package: str) -> list[Path]:
    """Every file that an installed package brought. Raises FileError that says what to install."""
    try:
        distribution = Distribution.from_name(package)
    except PackageNotFoundError:
        raise FileError(f"package {package} is not installed; pip install --no-deps {package} brings it") from None
    return [Path(str(distribution.locate_file(f))) for f in distribution.files or []]


def file_of(package: str, name: str) -> Path:
    """The installed file whose path ends in `name`. Raises FileError when it is not there."""
    for path in files_of(package):
        if path.as_posix().endswith(name) and path.is_file():
            return path
    raise FileError(f"package {package} is installed but has no {name}; install it again")
