"""The `kairos` command: one small module a subcommand."""
