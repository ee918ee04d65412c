"""What a run will need before it is started: memory, time and traffic, counted from layouts and shapes."""
