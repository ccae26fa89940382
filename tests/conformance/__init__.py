"""Every registered part, held to the promises of the design."""
