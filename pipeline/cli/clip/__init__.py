"""Commands about CLIPs that are made of files."""
