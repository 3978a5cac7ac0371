"""Time-step control: three-body systems, the flow equation, and learning to choose their steps.

One decision process serves both problems: at every decision a policy picks one of a few step
parameters, and is paid for small errors at few evaluations.
"""
