"""Golden cases: numbers of the original implementations, and the runners that compare a backend with them."""
