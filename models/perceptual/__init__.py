"""Networks of others that judge images, filled from weight files that the user has.

Each is written here from its published layout, so that only the weights come from outside and
neither torchvision nor the packages that published them are needed.
"""
