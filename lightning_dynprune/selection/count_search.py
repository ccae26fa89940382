"""The number of units whose connections come nearest to a number, where units differ in size."""

from __future__ import annotations

from collections.abc import Callable


def nearest_count(most: int, connections: Callable[[int], int], wanted: float) -> int:
    """Return the number of units that keeps the number of connections nearest to the one wanted.

    Args:
        most: largest number of units.
        connections: returns the connections that a number of units keeps; it rises with the number of units.
        wanted: number of connections to keep; of two equally near the smaller is taken.

    Example:
        >>> nearest_count(3, lambda units: [0, 4, 5, 9][units], 6.5)
        2
    """
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if connections(middle) <= wanted else (low, middle)
    # Rounding over several targets may disturb the order a little.
    near = range(max(low - 1, 0), min(high + 1, most) + 1)
    return min(near, key=lambda units: (abs(connections(units) - wanted), units))
