"""One server lifetime: leases, start, warm-up, phases, stop, and what is kept of it."""
