"""``python -m lightning_dynprune`` is the program ``dynprune``."""

from lightning_dynprune.app import run

if __name__ == "__main__":
    run()
