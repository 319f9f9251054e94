"""`lpir run`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpir.cli._options import AsIs, Config, Device, Isa, ModelPath, Shapes, Threads, check_output, configuration, load
from lpir.errors import FileError, InputError

if TYPE_CHECKING:
    from lpir.runtime.ports import Results

EXAMPLES = """
lpir run int8.xml -i photo.jpg --top 5
lpir run bert.onnx -i ids=ids.npy -i mask=mask.npy -o answers.npz
lpir run model.onnx --random
lpir run int8.xml -i x.npy --device REFERENCE       the exact answer, slowly
"""


def command(
    model: ModelPath,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]FILE",
            help="An input: .npy, .npz (one array an input) or a picture (normalized as ImageNet's); without NAME the "
            "next input in order. Repeatable.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.npz", help="Where to write all outputs.")
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random values, always the same, for inputs that are not given.")
    ] = False,
    top: Annotated[
        int, typer.Option(metavar="N", min=0, help="Show the indices of so many largest values of each output.")
    ] = 0,
    device: Device = "CPU",
    shape: Shapes = None,
    threads: Threads = 0,
    isa: Isa = "auto",
    as_is: AsIs = False,
    config: Config = None,
) -> None:
    """Run a model once.

    Shows what comes out, shortened; --output writes all of it.
    """
    import lpir
    from lpir.cli._data import inputs_of

    if output is not None:
        check_output(output, ".npz")
    found = load(model, shape)
    if found.inputs and not (input or random):
        wanted = ", ".join(f"{v.name}={v.element_type}{v.shape}" for v in found.inputs)
        raise InputError(f"the model needs inputs: {wanted}; give --input NAME=FILE for each, or --random")
    inputs = inputs_of(found, input or [], 0 if random else None)
    compiled = lpir.compile_model(found, device, configuration(threads, isa, as_is, config))
    results = compiled(inputs)
    arrays = named_outputs(results)
    for name, array in arrays.items():
        _print_array(name, array, top)
    if output is not None:
        write_npz(output, arrays)
        print(f"written to {output}")


def named_outputs(results: Results) -> dict[str, Any]:
    """Outputs by a tensor name each, made unique by their position where they share one."""
    arrays: dict[str, Any] = {}
    for index, value in enumerate(results):
        name = min(value.names, default=value.name)
        arrays[name if name not in arrays else f"{name}.{index}"] = results[index]
    return arrays


def _print_array(name: str, array: Any, top: int) -> None:
    import numpy as np

    print(f"{name}: {array.dtype}{list(array.shape)}")
    if top:
        flat = array.reshape(-1).astype(np.float64)
        order = np.argsort(-flat, kind="stable")[:top]
        print("\n".join(f"  {i:8}  {flat[i]:.6g}" for i in order))
    else:
        print(np.array2string(array, threshold=16, edgeitems=4, precision=6))


def write_npz(path: Path, arrays: dict[str, Any]) -> None:
    """Through a temporary file, so that a failure leaves what was there. Raises FileError."""
    import numpy as np

    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        with open(temporary, "xb") as stream:
            np.savez(stream, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
