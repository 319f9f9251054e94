"""`lpir quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lpir.cli._options import ModelPath, OutputXml, Shapes, check_output, load

EXAMPLES = """
lpir quantize model.xml --data photos/ -o int8.xml
lpir quantize model.onnx --data batch.npy -o int8.xml --preset mixed
lpir quantize bert.onnx --data items/ -o int8.xml --model-type transformer
lpir quantize model.xml --data photos/ -o int8.xml --ignore conv1
"""


def command(
    model: ModelPath,
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            metavar="PATH",
            help="Typical inputs: .npy, .npz (one array an input), pictures (normalized as ImageNet's), or folders of "
            "them; 10 to 300 are enough. Repeatable.",
            show_default=False,
        ),
    ],
    output: OutputXml,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            help="performance (symmetric activations) or mixed (asymmetric); default: performance, and mixed for "
            "transformers.",
        ),
    ] = None,
    model_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="transformer, for networks with attention.")
    ] = None,
    subset_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="The most calibration items that are read.")
    ] = 300,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="An operation to leave in float. Repeatable.")
    ] = None,
    ignore_type: Annotated[
        list[str] | None, typer.Option(metavar="TYPE", help="A type of operation to leave in float. Repeatable.")
    ] = None,
    ignore_pattern: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="Operations with such names (from their start) stay in float. Repeatable."),
    ] = None,
    shape: Shapes = None,
) -> None:
    """Make a Low Precision IR from a float model.

    FakeQuantize says how each tensor may be quantized, weights are stored in 8 bits. OpenVINO runs the result too.
    """
    import lpir
    from lpir.cli._data import calibration

    target = check_output(output)
    found = load(model, shape)
    options: dict[str, Any] = {}
    if ignore or ignore_type or ignore_pattern:
        options["ignored_scope"] = lpir.IgnoredScope(ignore or [], ignore_pattern or [], ignore_type or [])
    items = calibration(found, data)
    quantized = lpir.quantize(found, items, preset=preset, model_type=model_type, subset_size=subset_size, **options)
    lpir.save_model(quantized, target, compress_to_fp16=False)
    count = sum(1 for node in quantized.nodes() if node.op.type_name == "FakeQuantize")
    size = target.with_suffix(".bin").stat().st_size
    print(
        f"{target}: {count} FakeQuantize from {min(len(items), subset_size)} items, {size / 1e6:.2f} MB of constants. "
        f"Try: lpir explain {target}"
    )
