"""Pipeline file -> graph -> plan -> run on Ray; events, tracking and the command line.

Imports no torch: the command line answers in a fraction of a second.
"""
