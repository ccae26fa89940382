"""Tests of lightning_dynprune."""
