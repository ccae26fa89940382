"""The entry point of the program ``dynprune``."""

from __future__ import annotations

import os
import sys

from lightning_dynprune.app.arguments import check_flags, flags_first, search_working_folder
from lightning_dynprune.app.help import HELP_FLAGS, config_dirs_of, help_text
from lightning_dynprune.app.interrupt import Stopped, stop_on_interrupt
from lightning_dynprune.app.settings_folder import conf_dir

INTERRUPTED = 130


def run() -> None:
    """Run the console script: complete the command line, start Hydra, and turn an error into one sentence."""
    arguments = sys.argv[1:] = flags_first(sys.argv[1:])
    if set(arguments) & set(HELP_FLAGS):
        print(help_text(config_dirs_of(arguments)))
        return
    try:
        check_flags(arguments)
    except ValueError as error:
        raise SystemExit(f"dynprune: {error}") from None
    from lightning_dynprune.app.job import main
    from lightning_dynprune.app.refusals import FULL_ERROR, JobFailed, refusal, wants_traceback
    from lightning_dynprune.app.runs import expand_checkpoint, expand_resume
    from lightning_dynprune.app.sweeps import continue_sweep, report_stopped_sweep

    shows_traceback = wants_traceback(arguments)
    # Otherwise Hydra would print every error itself, in many lines.
    os.environ[FULL_ERROR] = "1"
    try:
        with stop_on_interrupt():
            sys.argv[1:] = flags_first(expand_checkpoint(expand_resume(continue_sweep(arguments))))
            search_working_folder(sys.argv[1:])
            main()
    except Stopped as stopped:
        report_stopped_sweep()
        raise SystemExit(128 + stopped.signum) from None
    except KeyboardInterrupt:
        report_stopped_sweep()
        raise SystemExit(INTERRUPTED) from None
    except (Exception, JobFailed) as caught:
        cause = caught.__cause__ if isinstance(caught, JobFailed) else caught
        assert isinstance(cause, Exception)
        message = None if shows_traceback else refusal(cause, conf_dir(), sys.argv[1:])
        if message is None:
            raise cause from cause.__cause__
        raise SystemExit(f"dynprune: {message}") from None


if __name__ == "__main__":
    run()
