"""What follows from a model's dimensions and a GPU's data sheet: sizes, floors, roofs and expectations. docs/theory.md lists them."""
