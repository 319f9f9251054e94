"""The command line. Each module of this folder that defines `command` is one command, named after the module;
those whose names start with _ serve them.

A command's docstring and its `EXAMPLES` become its help. Modules import what is heavy inside functions: help is quick.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lpir.errors import LpirError

if TYPE_CHECKING:
    from types import ModuleType

EXAMPLES = """
lpir demo                                              see it work, on a real network and photos
lpir convert model.onnx -o model.xml                   any supported format becomes OpenVINO IR
lpir quantize model.xml --data photos/ -o int8.xml     a few typical inputs are enough
lpir explain int8.xml                                  what runs in INT8, and why the rest does not
lpir bench int8.xml --layers                           how long it takes
"""
# what a shell reports for a command that was interrupted, or whose reader went away
INTERRUPTED, NO_READER = 130, 141


def main(arguments: list[str] | None = None) -> None:
    """Runs `lpir` and ends the process. Wrong input: one line on stderr, exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(_status(given or ["--help"]))


def commands() -> dict[str, ModuleType]:
    """All commands: name -> module."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def _status(arguments: list[str]) -> int:
    """The exit code."""
    usage_error = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    try:
        application = _application()
        with application.make_context("lpir", arguments) as context:
            application.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as end:
        return end.exit_code
    except LpirError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        print("lpir: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the text that is left cannot be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except MemoryError as error:
        return _complain(f"out of memory {error}")
    except OSError as error:
        return _complain(str(error))
    except Exception as error:
        if isinstance(error, usage_error):
            return _complain(_usage(error))
        raise


def _complain(message: str) -> int:
    """Prints one line, whatever the message; 2."""
    print("lpir:", re.sub(r"\s*\n\s*", " ", message.strip()), file=sys.stderr)
    return 2


def _usage(error: Any) -> str:
    """What is wrong with the arguments, and where help is."""
    path = error.ctx.command_path if getattr(error, "ctx", None) else "lpir"
    return f"{error.format_message().rstrip('.')}. Try: {path} --help"


def _application() -> Any:
    app = typer.Typer(
        name="lpir",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
        epilog=_lines("Examples", EXAMPLES) + "\n\n`lpir COMMAND --help` tells more. A command that fails says why in "
        "one line and ends with exit code 2.",
    )
    app.callback()(_root)
    for name, module in commands().items():
        app.command(name, epilog=_lines("Examples", module.EXAMPLES))(module.command)
    return typer.main.get_command(app)


def _lines(title: str, text: str) -> str:
    """A paragraph whose line breaks stay."""
    return "\n".join(["\b", f"{title}:", *(f"  {line}" for line in text.strip().splitlines())])


def _print_version(wanted: bool) -> None:
    if wanted:
        import lpir

        print(f"lpir {lpir.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Make a trained network small and fast in INT8, and see what runs how."""
