"""What physics allows: lower bounds from a model's dimensions and a GPU's peak rates."""
