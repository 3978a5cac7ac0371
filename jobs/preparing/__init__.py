"""Large sources of images, prepared once: decoded, cut and resized by actors into shards.

Shard j has the images j * size .. (j + 1) * size - 1 of the source, whatever file they are in, so
any number of actors, in any order and after any crash, writes the same bytes. Nobody holds more
than a shard of them. What is found out on the way (where the images of each file are, what became
of each shard) is kept in the job's work folder, from which a later attempt goes on.
"""
