"""`lpir run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from lpir.cli.options import AsIs, Device, Isa, ModelPath, Shapes, Threads, check_output, configuration, load


def command(
    model: ModelPath,
    input: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=FILE (.npy, .npz or a picture), or FILE for the first input."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="An .npz to write the outputs to.")] = None,
    random: Annotated[bool, typer.Option(help="Random values for inputs that are not given.")] = False,
    device: Device = "CPU",
    shape: Shapes = None,
    threads: Threads = 0,
    isa: Isa = "",
    as_is: AsIs = False,
) -> None:
    """Run a model once and show, or save, what comes out."""
    import lpir
    from lpir.cli.data import inputs_of

    if output is not None:
        check_output(output, ".npz")
    found = load(model, shape)
    compiled = lpir.compile_model(found, device, configuration(threads, isa, as_is))
    results = compiled(inputs_of(found, input or [], 0 if random else None))
    named = {}
    for index, value in enumerate(compiled.outputs):
        array = np.asarray(results[index])
        named[min(value.names, default=value.name)] = array
        print(f"{value.name}: {array.dtype}{list(array.shape)}")
        print(np.array2string(array, threshold=16, edgeitems=4, precision=6))
    if output is not None:
        write_npz(output, named)
        print(f"written to {output}")


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    """Through a temporary file, so that a failure leaves what was there. Raises FileError."""
    import os

    from lpir.errors import FileError

    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FileError(f"{path}: cannot be written: {error}") from error
