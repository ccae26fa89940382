"""The Hydra program ``dynprune``: train a dense control, prune the same network while it trains, report both."""
