"""One file for each family of golden cases, of its name: `run(case, backend)` computes what a case records."""
