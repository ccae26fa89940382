"""From masks to savings: smaller files, narrower networks, faster kernels, exports and what all of it measures."""
