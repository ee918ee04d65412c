"""`duosora launch`: starts the processes of a run, looks after them, and ends them together."""
