"""`lpir compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lpir.cli._options import AsIs, Config, Isa, ModelPath, Shapes, Threads, check_output, configuration, load

EXAMPLES = """
lpir compile int8.xml -o net.so                   net.so and net.h, for C and Python
lpir compile int8.xml -o net.so --isa avx2        for processors without AVX-512
lpir compile int8.xml -o net.so --isa neon_dot    for Arm's Cortex-A76 and later
lpir compile model.onnx -o net.so -s 1,3,224,224
"""


def command(
    model: ModelPath,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE.so", help="The library; a C header goes beside it.", show_default=False
        ),
    ],
    prefix: Annotated[
        str, typer.Option(metavar="NAME", help="What the C functions start with; default: the name of the library.")
    ] = "",
    shape: Shapes = None,
    threads: Threads = 0,
    isa: Isa = "auto",
    as_is: AsIs = False,
    config: Config = None,
) -> None:
    """Compile a model to a library for C and Python.

    The library runs without LLVM. C programs use it through the header (cc main.c ./net.so
    -Wl,-rpath,'$ORIGIN'), Python through Core().import_model. --threads is the most that one inference may use.
    """
    from lpir.runtime import registry
    from lpir.runtime.cache import write_file

    check_output(output, ".so")
    device, name, header = registry.load("CPU"), c_name(prefix or output.stem), output.with_suffix(".h")
    values = device.configure(configuration(threads, isa, as_is, config))
    made = device.export(load(model, shape), values, name, output.name)
    write_file(header, made.header.encode())
    write_file(output, made.library)
    print(f"{output}: {len(made.library) / 1e6:.1f} MB for {made.made_for}, functions {name}_*; {header}")


def c_name(text: str) -> str:
    """`text` as the start of C identifiers."""
    clean = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in text)
    return clean if clean and not clean[0].isdigit() else f"model_{clean}"
