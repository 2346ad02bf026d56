"""Reports: a study's tables and records become one HTML page that needs neither a network nor JavaScript."""
