"""Framework-free half of duosora: specs, layouts, tables, noise, samplers, pipelines, files and the command line."""
