"""The command line. stdout is data, stderr is talk; heavy imports only where they are used."""
