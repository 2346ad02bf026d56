"""From studies to servers, phases, cells and jobs."""
