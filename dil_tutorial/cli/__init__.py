"""The command line, ``dil``: one module per package, which parses, calls and prints.

Exit status: 0, 1 (a check failed), 2 (bad input: one line says what, where and how to fix it), 130
(stopped by Ctrl-C). Read ``console``, then any command.  Commands import torch and transformers
inside, so that ``dil --help`` is instant.
"""

import typer

from dil_tutorial.cli import course, dev, experiments, llm, read, theory
from dil_tutorial.cli.console import refuse
from dil_tutorial.errors import Diverged, InputError

app = typer.Typer(
    help="RLHF as imitation learning: check it, see it, train with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
COMMANDS = (  # in the order of --help
    read.lab,
    theory.verify,
    experiments.tour,
    theory.optima,
    llm.fetch_model,
    llm.data,
    llm.train,
    llm.sample,
    llm.chat,
    llm.evaluate,
    llm.judge,
    llm.doctor,
    experiments.simulate,
    experiments.experiment,
    llm.plan,
    llm.gpu,
)
for command in COMMANDS:
    passes_options_on = (
        {"allow_extra_args": True, "ignore_unknown_options": True} if command is read.lab else None
    )
    about = " ".join((command.__doc__ or "").split())  # one paragraph, as wide as the terminal
    app.command(help=about, context_settings=passes_options_on)(command)
app.add_typer(course.app, name="course")
app.add_typer(dev.app, name="dev")


def main() -> None:
    """Entry point: bad input becomes one line on standard error and exit status 2."""
    try:
        app()
    except InputError as error:
        refuse(str(error))
    except Diverged as error:
        refuse(str(error), status=1)
    except OSError as error:  # a folder that cannot be written, a full disk
        if error.filename is None:
            raise
        refuse(f"{error.filename}: {error.strerror}: check the path and its permissions")
