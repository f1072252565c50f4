"""One clear line on stderr and an exit code for whatever the user can get wrong."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import BackendUnavailable, DeviceLost, Diverged, nearest

__all__ = [
    "BAD_INPUT",
    "FAILED",
    "INTERRUPTED",
    "OneLineErrors",
    "StrictCommand",
    "known",
    "remark",
    "warnings_as_remarks",
]

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
# typer carries a click of its own in newer versions and uses the installed one in older ones.
ClickException: Any = typer.BadParameter.__mro__[2]

DEBUG = "FASTNN_DEBUG"  # an environment variable: errors keep their tracebacks


def remark(text: str) -> None:
    """One line on stderr; nothing, where that cannot be written: results and models matter more."""
    with suppress(OSError):
        print(f"fastnn: {' '.join(text.splitlines())}", file=sys.stderr, flush=True)


def known(option: str, given: str, names: Iterable[str]) -> str:
    """`given` if it is one of the names.

    Raises
    ------
    ValueError
        It is not; the nearest name is suggested.
    """
    names = list(names)
    if given not in names:
        raise ValueError(f"{option} {given!r} is not known{nearest(given, names) or '.'} Known: {', '.join(names)}")
    return given


@contextmanager
def warnings_as_remarks() -> Iterator[None]:
    """Warnings of the library as lines on stderr, without file and line number."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # restored by catch_warnings
        warnings.showwarning = lambda message, *rest, **more: remark(f"warning: {message}")
        yield


# What the metavar of an option promises, and what reads it.
NUMBERS: dict[str | None, tuple[Callable[[str], float], str]] = {
    "INTEGER": (int, "an integer"),
    "NUMBER": (float, "a number"),
    "FRACTION": (float, "a number"),
    "SECONDS": (float, "a number"),
}


class StrictCommand(TyperCommand):
    """A command that refuses an option given twice, where one value is expected, as the parser would take the last
    without a word; and numbers that are none, in a sentence that says what was given.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Every value of every option is looked at first."""
        params: list[Any] = [*self.params]
        options = {param.name: param for param in params if param.param_type_name == "option"}
        for name, values in self._all_values(ctx, args).items():
            if name not in options:
                continue
            option, (read, expected) = options[name], NUMBERS.get(options[name].metavar, (len, ""))
            if len(values) > 1 and not option.multiple:
                raise ValueError(
                    f"{option.opts[0]} is given {len(values)} times ({', '.join(values)}); one is expected"
                )
            for value in values:
                try:
                    read(value)
                except ValueError:
                    raise ValueError(f"{option.opts[0]} must be {expected}, got {value!r}") from None
        return super().parse_args(ctx, args)

    def _all_values(self, ctx: Any, args: list[str]) -> dict[str, list[str]]:
        """What is given to each option that takes values, in its order, as a twin of this command reads it whose
        options may all be repeated.
        """
        twin = copy.copy(self)
        params: list[Any] = [copy.copy(param) for param in self.params]
        twin.params = params
        for param in params:
            if param.param_type_name == "option" and not param.is_flag:
                param.multiple = True
        values, _, _ = twin.make_parser(ctx).parse_args(args=list(args))
        return {name: given for name, given in values.items() if isinstance(given, list)}


class OneLineErrors(TyperGroup):
    """A group of commands whose errors are one line, never a traceback or a panel."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C is caught here, before typer turns it into an exit without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            remark("interrupted")
            return INTERRUPTED

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and exit with the code; with standalone_mode=False return it."""

        def run() -> Any:
            return TyperGroup.main(
                self,
                args,
                prog_name or "fastnn",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        code = guarded(run)
        _let_go_of_the_log()
        if standalone_mode:
            sys.exit(code)
        return code


def _let_go_of_the_log() -> None:
    """What could not be written to stderr, on a full disk or because nobody reads it any more, is given up: Python from
    3.13 on would end with code 120.
    """
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def guarded(run: Callable[[], Any]) -> int:
    """The exit code of a command, with its error printed."""
    try:
        result = run()
        sys.stdout.flush()
    except ClickException as error:  # an option or argument that the parser refuses
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "fastnn"
        message = error.format_message()
        if message.strip():  # empty where a command is missing: the help was printed
            remark(f"error: {message} (see {path} --help)")
        return BAD_INPUT
    except Diverged as error:
        remark(f"error: {error} Nothing was saved.")
        return FAILED
    except DeviceLost as error:
        remark(f"error: {error}")
        return FAILED
    except BrokenPipeError:  # `fastnn predict ... | head`; Python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        remark(f"error: {name}{error.strerror or error}")
        return BAD_INPUT
    except MemoryError as error:
        remark(f"error: not enough memory ({str(error) or 'for a network or a batch of this size'})")
        return BAD_INPUT
    except (ValueError, TypeError, BackendUnavailable) as error:
        if os.environ.get(DEBUG):  # it may be a fault of fastnn's
            raise
        remark(f"error: {error}")
        return BAD_INPUT
    return result if isinstance(result, int) else 0
