"""Tables and figures of a run or a sweep, from plain data."""
