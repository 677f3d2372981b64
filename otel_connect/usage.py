"""What is said of a command line that cannot be used: in the words of the configuration, not of the library."""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import click


class Commands(click.Group):
    """A group in which a reader that has gone ends the command well; click itself would end it with 1."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; one that is misspelt is told by the name that was meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"{name}: no such command{_meant(get_close_matches(name, self.commands, 1))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise click.exceptions.Exit(0) from None


class Seconds(click.ParamType[float]):
    """More than no time, and not for ever."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number; no comparison with NaN holds."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            self.fail(f"must be a number of seconds, more than 0, not {value!r}", param, ctx)
        return seconds


class OneOf(click.Choice[str]):
    """One of some words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take the word."""
        if value not in self.choices:
            *others, last = map(repr, self.choices)
            self.fail(f"must be {', '.join(others)} or {last}, not {value!r}", param, ctx)
        return str(value)


def usage(error: click.ClickException) -> str:
    """Say in one line what of the command line cannot be used, as of any other place of the configuration."""
    if isinstance(error, click.BadParameter) and error.param is not None:
        line = f"{error.param.opts[0]}: {error.message}"
    elif isinstance(error, click.NoSuchOption):
        line = f"{error.option_name}: no such option{_meant(error.possibilities or ())}"
    elif isinstance(error, click.BadOptionUsage):
        needed = "requires" in error.message
        line = f"{error.option_name}: needs a value" if needed else f"{error.option_name}: takes no value"
    else:
        line = error.format_message().replace("\n", " ").rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return line if context is None or line.endswith("?") else f"{line}; see {context.command_path} --help"


def _meant(alike: Sequence[str]) -> str:
    return f"; did you mean {alike[0]}?" if alike else ""
