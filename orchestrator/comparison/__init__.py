"""Results of runs side by side: seeds pooled, costs counted, only like compared with like."""
