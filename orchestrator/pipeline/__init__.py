"""The pipeline file: read, checked and linked, with `file:line` for each mistake."""
