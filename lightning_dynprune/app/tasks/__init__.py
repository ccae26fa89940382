"""The tasks of the program: ``train``, ``deploy`` and ``preflight``.

May import the other rooms of app/ and every room below app/.
"""

from lightning_dynprune.app.tasks.deploy import run_deploy
from lightning_dynprune.app.tasks.preflight import run_preflight
from lightning_dynprune.app.tasks.train import run_training

__all__ = ["run_deploy", "run_preflight", "run_training"]
