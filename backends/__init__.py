"""The implementations of the models, one folder per framework; they never import each other."""
