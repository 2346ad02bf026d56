"""The report's figures, each a function from tables to inline SVG."""
