"""Network families, one package each, and the published presets."""
