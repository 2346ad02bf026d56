"""Models: their files from a hub, from a path or made on the spot, their dimensions, and the words their tokenizer knows."""
