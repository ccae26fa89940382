"""Tests of the Hydra program."""
