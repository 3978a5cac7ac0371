"""Bytes in and out of the store: blobs, content-addressed artifacts, handles."""
