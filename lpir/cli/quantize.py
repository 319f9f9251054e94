"""`lpir quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lpir.cli.options import ModelPath, Shapes, check_output, load


def command(
    model: ModelPath,
    data: Annotated[
        list[Path],
        typer.Option("--data", help="Typical inputs: .npy, .npz (one array an input), pictures, or folders of them."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .xml to write; the .bin goes next to it.")],
    preset: Annotated[
        str | None, typer.Option(help="performance (symmetric activations) or mixed (asymmetric).")
    ] = None,
    model_type: Annotated[str | None, typer.Option(help="transformer, for networks with attention.")] = None,
    subset_size: Annotated[int, typer.Option(min=1, help="At most so many calibration items.")] = 300,
    ignore: Annotated[list[str] | None, typer.Option(help="Name of an operation to leave in float.")] = None,
    shape: Shapes = None,
) -> None:
    """Quantize a float model from a little data: a Low Precision IR with compressed weights."""
    import lpir
    from lpir.cli.data import calibration

    target = check_output(output)
    found = load(model, shape)
    options: dict[str, Any] = {}
    if ignore:
        options["ignored_scope"] = lpir.IgnoredScope(names=tuple(ignore))
    quantized = lpir.quantize(
        found,
        calibration(found, data),
        preset=preset,
        model_type=model_type,
        subset_size=subset_size,
        **options,
    )
    lpir.save_model(quantized, target, compress_to_fp16=False)
    count = sum(1 for node in quantized.nodes() if node.op.type_name == "FakeQuantize")
    size = target.with_suffix(".bin").stat().st_size
    print(f"{target}: {count} FakeQuantize, {size / 1e6:.2f} MB of constants")
