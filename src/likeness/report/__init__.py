"""Grids, tables, the HTML page and Weights & Biases: everything a person looks at, made from records of cells."""
