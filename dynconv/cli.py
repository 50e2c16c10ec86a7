"""The command line: dynconv train | match | eval | predict | export | data | plot | runs | report | reproduce | bench |
info.

Exit codes: 0 done, 2 wrong use or bad input (one message on stderr), 130 interrupted, 1 a fault of ours or a run that
diverged. What a command needs is imported inside of it: `dynconv --help` is quick, `dynconv info` needs torch alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from dynconv import commands
from dynconv.ending import fail, packages_missing
from dynconv.usage import USAGE, asks_for_help, show_usage

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": commands.run_train,
    "match": commands.run_match,
    "eval": commands.run_eval,
    "predict": commands.run_predict,
    "export": commands.run_export,
    "data": commands.run_data,
    "plot": commands.run_plot,
    "runs": commands.run_runs,
    "report": commands.run_report,
    "reproduce": commands.run_reproduce,
    "bench": commands.run_bench,
    "info": commands.run_info,
}
# These tell their own help without the packages of training, and ask for what they need themselves.
NEED_LESS = ("plot", "bench", "info")
# What an interruption costs where no checkpoint is written.
LOST = {
    "bench": "no row was written",
    "predict": "no file was written",
    "export": "no file was written",
    "data": "nothing was written",
    "plot": "what was drawn before is whole",
    "report": "what was measured so far is in the report's cache",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    if asks_for_help(args):
        return show_usage(USAGE, args)
    if args[0] == "--version":
        import dynconv

        print(f"dynconv {dynconv.__version__}")
        return 0
    name, *words = args
    if name not in COMMANDS:
        return fail(f"unknown command {name!r}; expected one of {', '.join(COMMANDS)} (dynconv --help)")
    if name not in NEED_LESS and (problem := packages_missing("train")):
        return fail(problem)
    try:
        try:
            return COMMANDS[name](words)
        finally:
            # A reader that left meanwhile is met here, and not when Python flushes at exit.
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has left; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        lost = LOST.get(name, "what was not yet in a checkpoint is lost")
        print(f"dynconv: interrupted; {lost}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
