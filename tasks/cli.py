"""The ``mixerzoo`` command: one group that imports a command's module when the command is named."""

from __future__ import annotations

import importlib
import sys

import click

# Section of the help -> name of a command -> module below `mixerzoo` whose `command` it is.
COMMANDS = {
    "Measure": {
        "list": "benchmarks.commands.list",
        "analyze": "benchmarks.commands.analyze",
        "bench": "benchmarks.commands.bench",
        "compare": "benchmarks.commands.compare",
    },
    "Train": {
        "train": "tasks.commands.train",
        "test": "tasks.commands.test",
        "predict": "tasks.commands.predict",
        "experiment": "tasks.commands.experiment",
    },
    "Files": {
        "convert": "tasks.commands.convert",
    },
}
MODULES = {name: module for section in COMMANDS.values() for name, module in section.items()}


class CommandLine(click.Group):
    """Finds the commands of `COMMANDS`, and turns bad input into one line on stderr and a non-zero exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the help."""
        return list(MODULES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command; none of its modules imports torch before it runs."""
        module = MODULES.get(name)
        return module and importlib.import_module(f"mixerzoo.{module}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One section of help after the other."""
        width = max(map(len, MODULES))
        for title, names in COMMANDS.items():
            rows = [(f"{name:{width}}", self.get_command(ctx, name).get_short_help_str(limit=100)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command; ``--traceback`` shows the whole story of an error."""
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:  # a RuntimeError by birth: how click ends after --help
            raise
        except (ValueError, RuntimeError, OSError, ImportError) as error:
            if ctx.params.get("traceback"):
                raise
            named = isinstance(error, OSError) and error.strerror and error.filename  # without "[Errno 2]"
            text = f"{error.strerror}: {str(error.filename)!r}" if named else str(error)
            message = " ".join(text.split()) or type(error).__name__
            click.echo(f"mixerzoo: {message}", err=True)
            sys.exit(1)
        except KeyboardInterrupt as interrupt:
            click.echo(f"mixerzoo: interrupted{f'; {interrupt}' if interrupt.args else ''}", err=True)
            sys.exit(130)


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--traceback", is_flag=True, help="Show Python's traceback instead of one line when something is wrong.")
@click.version_option(package_name="mixerzoo")
def main(traceback: bool) -> None:
    """Does this vision task need a state-space model, attention, or just a gated convolution? Measure it."""


if __name__ == "__main__":
    main()
