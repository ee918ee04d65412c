"""Settings: the schema of every command and the strict loading of YAML files with --set overrides."""
