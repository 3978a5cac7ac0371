"""One file per job kind; its name is the kind. Kinds do not know each other."""
