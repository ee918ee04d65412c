"""Tables, index plans and tile plans as numpy arrays and integers, made once and used by every backend."""
