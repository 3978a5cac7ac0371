"""A flow's network as a one-step generator that begins at a noise level of the flow."""
