"""The ``mixerzoo`` command: one click group whose bodies import torch only when they run."""

from __future__ import annotations

import sys

import click


class OneLineErrors(click.Group):
    """Turns bad input into one line on stderr and a non-zero exit code; ``--traceback`` shows the whole story."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ValueError, RuntimeError, OSError, ImportError) as error:
            if ctx.params.get("traceback"):
                raise
            message = " ".join(str(error).split()) or type(error).__name__
            click.echo(f"mixerzoo: {message}", err=True)
            sys.exit(1)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--traceback", is_flag=True, help="Show Python's traceback instead of one line when something is wrong.")
@click.version_option(package_name="mixerzoo")
def main(traceback: bool) -> None:
    """Does this vision task need a state-space model, attention, or just a gated convolution? Measure it."""


if __name__ == "__main__":
    main()
