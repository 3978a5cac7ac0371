"""Networks of others that judge images, filled from weight files that the user has.

Each is written here from its published layout, not taken from torch-fidelity 0.4.0 and lpips 0.1.4:
both import torchvision, which loads beside the torch that it was built for only (0.29.1 of the
package index ends in "operator torchvision::nms does not exist" beside a CPU build of torch).
"""
