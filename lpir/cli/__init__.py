"""The command line. Each module of this folder that defines `command` is one command, named after the module."""

from __future__ import annotations

import importlib
import pkgutil
import sys

from lpir.errors import LpirError


def main(arguments: list[str] | None = None) -> None:
    """Runs `lpir`; wrong input ends in one line on stderr and exit code 2."""
    import typer

    app = typer.Typer(
        name="lpir",
        help="Make a trained network small and fast in INT8, and see what runs how.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog="Errors name the cause and end with exit code 2. `lpir COMMAND --help` tells more.",
    )
    app.callback()(_version)
    for name in commands():
        app.command(name)(importlib.import_module(f"lpir.cli.{name}").command)
    try:
        app(args=arguments, prog_name="lpir")
    except LpirError as error:
        print(f"lpir: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def commands() -> list[str]:
    """Names of all commands."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in ("data", "options"))


def _version() -> None:
    """Make a trained network small and fast in INT8, and see what runs how."""
