"""Options that several commands share, and what they come to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpir.errors import FileError, InputError

if TYPE_CHECKING:
    from lpir.ir.model import Model

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The model: .xml (its .bin beside it) or .onnx.", show_default=False)
]
OutputXml = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE.xml", help="The .xml to write; the .bin goes beside it.", show_default=False
    ),
]
Device = Annotated[
    str, typer.Option("--device", "-d", metavar="NAME", help="CPU, REFERENCE (NumPy, slow and exact) or AUTO.")
]
Threads = Annotated[
    int, typer.Option("--threads", "-t", metavar="N", min=0, help="Threads of one inference; 0: all cores.")
]
Isa = Annotated[
    str,
    typer.Option(
        "--isa",
        metavar="NAME",
        help="Instruction set of the CPU device: amx, avx512_vnni, avx512, avx_vnni or avx2; neon_i8mm or neon_dot; "
        "generic; auto (best here).",
    ),
]
AsIs = Annotated[bool, typer.Option("--as-is", help="Execute FakeQuantize as it stands, in float.")]
Config = Annotated[
    list[str] | None,
    typer.Option(
        "--config", "-c", metavar="NAME=VALUE", help="Any property of the device, such as NUM_STREAMS=2. Repeatable."
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        "-s",
        metavar="[NAME=]SHAPE",
        help="New shape of an input: NAME=1,3,224,224; without NAME of the first. Repeatable.",
    ),
]


def configuration(threads: int, isa: str, as_is: bool, more: list[str] | None) -> dict[str, Any]:
    """compile_model's config for the options. Raises InputError."""
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if isa != "auto":
        config["ISA"] = isa
    if as_is:
        config["LP_TRANSFORMS_MODE"] = False
    for text in more or []:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"--config {text}: must be NAME=VALUE")
        config[name.strip()] = value.strip()
    return config


def load(path: Path, shapes: list[str] | None = None) -> Model:
    """The model at `path` with new input shapes. Raises FileError, InputError."""
    import lpir

    model = lpir.convert_model(path)
    if shapes:
        model.reshape(dict(parse_shape(text) for text in shapes))
    return model


def parse_shape(text: str) -> tuple[int | str, Any]:
    """`NAME=1,3,?` or `1,3,?` (the first input). Raises InputError."""
    from lpir.ir.shape import PartialShape

    name, _, dims = text.rpartition("=")
    return name or 0, PartialShape.parse(dims)


def check_output(path: Path, suffix: str = ".xml") -> Path:
    """`path` if a file with this suffix can be written there. Raises InputError, FileError before any work is done."""
    if path.suffix.lower() != suffix:
        raise InputError(f"--output {path}: the name must end in {suffix}")
    if not path.parent.is_dir():
        why = "is not a folder" if path.parent.exists() else "does not exist; make it first"
        raise FileError(f"--output {path}: {path.parent} {why}")
    if path.is_dir():
        raise FileError(f"--output {path}: that is a folder")
    if not os.access(path.parent, os.W_OK):
        raise FileError(f"--output {path}: the folder {path.parent} is not writable")
    return path
