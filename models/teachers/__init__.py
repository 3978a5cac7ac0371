"""Flows from files: SlimFlow's and EDM's checkpoints, and our own.

flow = load_teacher("edm-cifar10-32x32-uncond-vp.pkl")
images = edm_heun(flow, x0).x1
"""

from slimctl.models.teachers.flow_file import FlowHeader, save_flow
from slimctl.models.teachers.load import load_teacher

__all__ = ["FlowHeader", "load_teacher", "save_flow"]
