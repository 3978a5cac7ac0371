"""Readers that turn images from outside into one uint8 array.

Everything here treats a file as data that may be damaged or hostile: image files are opened by
decoders that run nothing, CIFAR's pickles by an unpickler that can only build arrays, and a source
is either read whole or refused with all that is wrong with it.
"""
