"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpir.errors import FileError, InputError

if TYPE_CHECKING:
    from lpir.ir.model import Model

ModelPath = Annotated[Path, typer.Argument(help="The model: .xml (with its .bin) or .onnx.", show_default=False)]
Device = Annotated[str, typer.Option("--device", "-d", help="CPU, REFERENCE or AUTO.")]
Threads = Annotated[int, typer.Option("--threads", "-t", min=0, help="Threads of one inference; 0: all cores.")]
Isa = Annotated[str, typer.Option("--isa", help="Instruction set to compile for, such as avx2; default: the best here.")]
AsIs = Annotated[bool, typer.Option("--as-is", help="Execute FakeQuantize as it stands, in float.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", "-s", help="New input shape: NAME=1,3,224,224, or 1,3,224,224 for the only input."),
]


def configuration(threads: int, isa: str, as_is: bool) -> dict[str, Any]:
    """compile_model's config for the options."""
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if isa:
        config["ISA"] = isa
    if as_is:
        config["LP_TRANSFORMS_MODE"] = False
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
        raise FileError(f"--output {path}: the folder {path.parent} does not exist")
    return path
